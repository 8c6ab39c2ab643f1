// The agent that a runner drives: in each turn it asks the model, uses tools that people may have to approve, and says so.
import { modelRequest } from "./model-gateway.ts";
import type { AskedCall } from "./pauses.ts";
import { ask, flushed, leaving, type Runner, say } from "./runner.ts";
import { decide } from "./runner-service.ts";
import { createGate, createProcess, kill, type Process, Refusal, type Task, tell } from "./scheduler.ts";
import { act, call, newId, newNumber, sleep, waitAt } from "./world.ts";

export type Agent = { process: Process; prompts: { seq: number; isAgain: boolean }[]; isBusy: boolean };
type Turn = { runner: Runner; agent: Agent; seq: number };

const mostCrashes = 3;

export function startAgent(runner: Runner): Agent {
  const agent: Agent = { process: createProcess(`agent in ${runner.sandbox.box.id}`), prompts: [], isBusy: false };
  runner.sandbox.process.onDeath.push(() => kill(agent.process));
  agent.process.onDeath.push(() => onDeath(runner, agent));
  return agent;
}

/** Ends it without a word, and with it the turn that it was in. */
export function stopAgent(runner: Runner): void {
  const { agent } = runner;
  runner.agent = undefined;
  runner.turn = 0;
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

/** One turn at a time: what it is told in a turn comes after it. */
export function prompt(runner: Runner, agent: Agent, seq: number, isAgain: boolean): void {
  agent.prompts.push({ seq, isAgain });
  if (agent.isBusy) return;
  agent.isBusy = true;
  runner.world.scheduler.spawn(agent.process, leaving(runner, takeTurns(runner, agent)));
}

function* takeTurns(runner: Runner, agent: Agent): Task {
  for (let next = agent.prompts.shift(); next; next = agent.prompts.shift()) {
    const { seq, isAgain } = next;
    yield* takeTurn({ runner, agent, seq }, isAgain);
  }
  agent.isBusy = false;
}

function* takeTurn(turn: Turn, isAgain: boolean): Task {
  const { runner } = turn;
  const { world, lease } = runner;
  if (!lease.conversation) {
    lease.conversation = newId(world, "conversation");
    say(runner, "sdkSessionId", lease.conversation);
  }
  for (let rounds = world.random.between(1, 3); rounds > 0; rounds -= 1) {
    const isAnswered = yield* askModel(runner);
    if (!isAnswered) return finish(runner, "failure");
    say(runner, "assistant", "text");
    if (world.random.chance(0.6)) yield* useTools(turn, isAgain);
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

/** One call, or two at once. Told to go on, it mostly makes the call again that was not answered. */
function* useTools(turn: Turn, isAgain: boolean): Task {
  const { runner, agent } = turn;
  const { world } = runner;
  const calls = Array.from({ length: world.random.chance(0.2) ? 2 : 1 }, () => newCall(turn, isAgain));
  for (const { id } of calls) {
    world.checker.callBegun(runner.lease, id, agent.process, runner.sandbox);
    say(runner, "toolUse", id);
  }
  const [first, other] = calls;
  const isDone = createGate<void>();
  if (other) {
    const both = function* (): Task {
      yield* useTool(turn, other);
      tell(isDone, undefined);
    };
    world.scheduler.spawn(agent.process, leaving(runner, both()));
  }
  yield* useTool(turn, first!);
  if (other) yield* waitAt(world, isDone, Number.POSITIVE_INFINITY);
}

const tools = ["read", "write", "test"];

function newCall({ runner: { world, lease }, seq: turn }: Turn, isAgain: boolean): AskedCall {
  const last = [...world.store.sessions.get(lease.sessionId)!.pauses.values()].at(-1);
  const about = isAgain && last && world.random.chance(0.7) ? last.about : world.random.pick(tools);
  return { id: newId(world, "call"), turn, about, isOfSubAgent: world.random.chance(0.1) };
}

function* useTool({ runner, agent, seq }: Turn, asked: AskedCall): Task {
  const { world, sandbox, lease } = runner;
  const { id } = asked;
  const verdict = world.random.pick(["allow", "allow", "deny", "ask", "ask"] as const);
  // The call itself is in the log before anybody is asked about it.
  yield* flushed(runner);
  const isAllowed = (yield* ask(runner, (plane) => decide(world, plane, lease, asked, verdict))) ?? (yield* waitForPerson(runner, id));
  if (isAllowed) {
    world.checker.toolStarted(lease, id, agent.process, sandbox);
    yield sleep(world, world.random.between(10, 600));
    yield* act(world, () => {
      if (sandbox.isLingering) return;
      sandbox.box.files = newNumber(world);
      world.checker.toolRan(lease, seq, asked, sandbox);
    });
  }
  say(runner, "toolResult", id);
  if (isAllowed && world.random.chance(0.2)) world.scheduler.spawn(agent.process, writeOn(runner));
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
