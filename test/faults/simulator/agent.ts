// The agent that a runner drives: in each turn it asks the model, uses tools that people may have to approve, and says so.
import { modelRequest } from "./model-gateway.ts";
import { ask, flushed, leaving, type Runner, say } from "./runner.ts";
import { decide } from "./runner-service.ts";
import { createGate, createProcess, kill, type Process, Refusal, type Task } from "./scheduler.ts";
import { act, call, newId, newNumber, sleep, waitAt } from "./world.ts";

export type Agent = { process: Process };

const mostCrashes = 3;

export function startAgent(runner: Runner): Agent {
  const agent: Agent = { process: createProcess(`agent in ${runner.sandbox.box.id}`) };
  runner.sandbox.process.onDeath.push(() => kill(agent.process));
  agent.process.onDeath.push(() => onDeath(runner, agent));
  return agent;
}

/** Ends it without a word. */
export function stopAgent(runner: Runner): void {
  const { agent } = runner;
  runner.agent = undefined;
  if (agent) kill(agent.process);
}

/** A turn it was in has failed; the next prompt starts another one. */
function onDeath(runner: Runner, agent: Agent): void {
  if (runner.agent !== agent || !runner.sandbox.process.alive) return;
  runner.agent = undefined;
  if (runner.turn === 0) return;
  runner.turn = 0;
  runner.crashes += 1;
  say(runner, "result", "agent_crashed");
  if (runner.crashes >= mostCrashes) kill(runner.sandbox.process);
}

export function prompt(runner: Runner, agent: Agent, seq: number): void {
  runner.world.scheduler.spawn(agent.process, leaving(runner, takeTurn(runner, seq)));
}

function* takeTurn(runner: Runner, seq: number): Task {
  const { world, lease } = runner;
  if (!lease.conversation) {
    lease.conversation = newId(world, "conversation");
    say(runner, "sdkSessionId", lease.conversation);
  }
  for (let rounds = world.random.between(1, 3); rounds > 0; rounds -= 1) {
    const isAnswered = yield* askModel(runner);
    if (!isAnswered) return finish(runner, "failure");
    say(runner, "assistant", "text");
    if (world.random.chance(0.6)) yield* useTool(runner, seq);
  }
  finish(runner, "success");
}

function finish(runner: Runner, how: string): void {
  runner.turn = 0;
  runner.crashes = 0;
  say(runner, "result", how);
}

/** False when the model cannot be had. Of several requests at once, as sub-agents make them, all are waited for. */
function* askModel(runner: Runner): Task<boolean> {
  const { world, sandbox, start, lease } = runner;
  const plane = () => world.controlPlanes[sandbox.box.host]!;
  for (let tries = 0; tries < 4; tries += 1) {
    const request = () => modelRequest(world, plane(), start, lease.epoch);
    if (world.random.chance(0.1))
      world.scheduler.spawn(runner.agent?.process ?? sandbox.process, ignoring(call(world, () => plane().process, request)));
    try {
      yield call(world, () => plane().process, request);
      return true;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.reason !== "UNAVAILABLE") return false;
      yield sleep(world, 100);
    }
  }
  return false;
}

function* ignoring(effect: ReturnType<typeof call>): Task {
  try {
    yield effect;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
  }
}

function* useTool(runner: Runner, seq: number): Task {
  const { world, sandbox, lease } = runner;
  const id = newId(world, "call");
  const verdict = world.random.pick(["allow", "allow", "deny", "ask", "ask"] as const);
  say(runner, "toolUse", id);
  // The call itself is in the log before anybody is asked about it.
  yield* flushed(runner);
  const isAllowed = (yield* ask(runner, (plane) => decide(world, plane, lease, id, verdict))) ?? (yield* waitForPerson(runner, id));
  if (isAllowed) {
    yield sleep(world, world.random.between(10, 600));
    yield* act(world, () => {
      if (sandbox.isLingering) return;
      sandbox.box.files = newNumber(world);
      world.checker.toolRan(lease, seq, id, sandbox);
    });
  }
  say(runner, "toolResult", id);
  if (isAllowed && runner.agent && world.random.chance(0.2)) world.scheduler.spawn(runner.agent.process, writeOn(runner));
}

/** What a tool left running writes on, whether or not a turn is under way. */
function* writeOn({ world, lease, sandbox }: Runner): Task {
  for (let times = world.random.between(2, 30); times > 0; times -= 1) {
    yield sleep(world, world.random.between(100, 900));
    if (sandbox.isLingering) return;
    sandbox.box.files = newNumber(world);
    world.checker.filesChanged(lease, sandbox);
  }
}

function* waitForPerson(runner: Runner, id: string): Task<boolean> {
  const early = runner.early.get(id);
  if (early !== undefined) return early;
  const gate = createGate<boolean>();
  runner.asked.set(id, gate);
  const told = yield* waitAt(runner.world, gate, Number.POSITIVE_INFINITY);
  runner.asked.delete(id);
  return told!;
}
