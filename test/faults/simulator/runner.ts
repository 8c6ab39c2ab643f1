// The program in a sandbox (runner/session.ts, channel.ts, driver.ts): attaches, follows commands, reports, puts away.
import { type Agent, prompt, startAgent, stopAgent } from "./agent.ts";
import type { ControlPlane } from "./journal.ts";
import type { Start } from "./machine.ts";
import * as service from "./runner-service.ts";
import { createGate, type Gate, kill, Refusal, type Task, tell } from "./scheduler.ts";
import { createStream, cut, follow } from "./streams.ts";
import type { Command, EventKind } from "./tables.ts";
import {
  act,
  call,
  emptySpool,
  halfUnpacked,
  persistently,
  type Sandbox,
  type Spool,
  type SpooledEvent,
  sleep,
  times,
  type World,
  waitAt,
} from "./world.ts";

export type Runner = {
  readonly world: World;
  readonly sandbox: Sandbox;
  readonly start: Start;
  readonly lease: service.Attached;
  readonly spool: Spool;
  waiting: SpooledEvent[];
  committed: number;
  readonly work: Gate<void>;
  flushing: Gate<void>[];
  handled: number;
  agent: Agent | undefined;
  turn: number;
  crashes: number;
  /** Decisions that came before the call learned that it has to wait, and calls that wait. */
  early: Map<string, boolean>;
  asked: Map<string, Gate<boolean>>;
  /** What is put away now, or was last; what comes later stops it and waits for its end. */
  staying: { isAborted: boolean };
  readonly jobs: Gate<() => Task>;
  isLeaving: boolean;
};

export function* runInSandbox(world: World, sandbox: Sandbox, start: Start): Task {
  try {
    const plane = () => planeOf(world, sandbox);
    const lease = yield* persistently<service.Attached>(world, () =>
      call(
        world,
        () => plane().process,
        () => service.attach(world, plane(), start.attachToken),
      ),
    );
    const runner = newRunner(world, sandbox, start, lease);
    world.scheduler.spawn(sandbox.process, leaving(runner, pump(runner)));
    if (lease.restore !== undefined) yield* bringBack(runner, lease.restore);
    runner.agent = startAgent(runner);
    world.scheduler.spawn(sandbox.process, leaving(runner, putter(runner)));
    yield* followCommands(runner);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    kill(sandbox.process);
  }
}

function newRunner(world: World, sandbox: Sandbox, start: Start, lease: service.Attached): Runner {
  const spool = emptySpool(lease.epoch);
  // Of one that has ended only what it had sent still arrives; it writes no files.
  if (!sandbox.isLingering) sandbox.box.spool = spool;
  return {
    world,
    sandbox,
    start,
    lease,
    spool,
    waiting: [],
    committed: 0,
    work: createGate(),
    flushing: [],
    handled: 0,
    agent: undefined,
    turn: 0,
    crashes: 0,
    early: new Map(),
    asked: new Map(),
    staying: { isAborted: false },
    jobs: createGate(),
    isLeaving: false,
  };
}

/** A thread of the runner that is refused ends its process: the session goes on without it. */
export function* leaving(runner: Runner, task: Task): Task {
  try {
    yield* task;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    kill(runner.sandbox.process);
  }
}

function planeOf(world: World, sandbox: Sandbox): ControlPlane {
  return world.controlPlanes[sandbox.box.host]!;
}

/** One call of the runner, repeated until it is answered. */
export function ask<T>(runner: Runner, handler: (plane: ControlPlane) => Task<T>, timeoutMs = times.callTimeoutMs): Task<T> {
  const { world, sandbox } = runner;
  const plane = () => planeOf(world, sandbox);
  return persistently<T>(world, () =>
    call(
      world,
      () => plane().process,
      () => handler(plane()),
      timeoutMs,
    ),
  );
}

export function say(runner: Runner, kind: EventKind, about: string): void {
  const { world, waiting, spool, sandbox, lease } = runner;
  const event = { kind, about, saidIn: lease.epoch };
  waiting.push(event);
  if (world.rules.order.spoolBeforeSending) spool.events.push(event);
  else world.scheduler.at(400, () => sandbox.process.alive && spool.events.push(event));
  world.checker.said(lease, runner.committed + waiting.length, sandbox);
  tell(runner.work, undefined);
}

/** Sends what waits, one batch at a time, and shows that it lives where nothing waits. */
function* pump(runner: Runner): Task {
  const { world, spool, waiting, lease } = runner;
  for (;;) {
    if (waiting.length === 0) yield* waitAt(world, runner.work, times.heartbeatMs);
    const batch = { firstSeq: runner.committed + 1, events: waiting.slice(0, 4), ackedCommandId: runner.handled };
    if (!world.rules.order.forgetAfterAcknowledgement) forget(runner, batch.events.length);
    const last = yield* ask(runner, (plane) => service.reportEvents(world, plane, lease, batch));
    forget(runner, Math.max(0, last - runner.committed));
    if (spool.events.length === 0 && waiting.length === 0) for (const gate of runner.flushing.splice(0)) tell(gate, undefined);
  }
}

function forget(runner: Runner, count: number): void {
  runner.waiting.splice(0, count);
  runner.spool.events.splice(0, count);
  runner.spool.firstSeq += count;
  runner.committed += count;
}

/** Waits until everything said so far is committed. */
export function* flushed(runner: Runner): Task {
  if (runner.waiting.length === 0) return;
  const gate = createGate<void>();
  runner.flushing.push(gate);
  yield* waitAt(runner.world, gate, Number.POSITIVE_INFINITY);
}

function* bringBack(runner: Runner, generation: number): Task {
  const { world, lease, sandbox } = runner;
  const { reportAfterUnpacking } = world.rules.order;
  let files: number;
  try {
    files = yield* ask(runner, (plane) => service.getSnapshot(world, plane, lease, generation), times.archiveTimeoutMs);
  } catch (error) {
    if (error instanceof Refusal && error.reason === "SNAPSHOT_GONE") {
      yield* ask(runner, (plane) => service.reportRestore(world, plane, lease, false));
    }
    throw error;
  }
  if (!reportAfterUnpacking) yield* ask(runner, (plane) => service.reportRestore(world, plane, lease, true));
  const isEmpty = sandbox.box.files === 0;
  yield* act(world, () => void (sandbox.box.files = halfUnpacked));
  yield sleep(world, world.random.between(50, 1_000));
  // Over what was there it would be a mixture.
  yield* act(world, () => void (sandbox.box.files = isEmpty ? files : halfUnpacked));
  if (world.random.chance(world.faults.lastWord)) {
    world.checker.reach("fault: a runner dies with its last word");
    world.scheduler.at(world.random.between(1, 25), () => kill(sandbox.process));
  }
  if (reportAfterUnpacking) yield* ask(runner, (plane) => service.reportRestore(world, plane, lease, true));
}

function* followCommands(runner: Runner): Task {
  const { world, sandbox, lease } = runner;
  for (;;) {
    const stream = createStream<Command>();
    let refused: string | undefined;
    const plane = planeOf(world, sandbox);
    const { handled } = runner;
    follow(
      world,
      plane.process,
      stream,
      () => service.watchCommands(world, plane, lease, handled, stream),
      (reason) => (refused = reason),
    );
    while (!stream.isCut) {
      yield* waitAt(world, stream.gate, 3 * times.keepAliveMs);
      const commands = stream.received.splice(0);
      if (commands.length === 0) break;
      for (const command of commands) obeyOnce(runner, command);
    }
    cut(stream);
    if (refused === service.fenced) throw new Refusal(refused);
    yield sleep(world, 50);
  }
}

function obeyOnce(runner: Runner, command: Command): void {
  if (command.id <= runner.handled && runner.world.rules.order.skipHandledCommands) return;
  runner.handled = Math.max(runner.handled, command.id);
  obey(runner, command);
}

function obey(runner: Runner, command: Command): void {
  const { world, sandbox } = runner;
  switch (command.kind) {
    case "prompt":
      world.checker.prompted(runner.lease, command, sandbox);
      // Was to be stopped, and was overtaken: what it waits for nobody answers any more.
      if (runner.turn > 0 && world.rules.order.replaceBusyAgent) stopAgent(runner);
      runner.turn = command.seq;
      runner.staying.isAborted = true;
      runner.agent ??= startAgent(runner);
      return prompt(runner, runner.agent, command.seq, command.isAgain);
    case "interrupt":
      if (runner.turn === command.turn && runner.agent)
        world.scheduler.spawn(sandbox.process, interrupt(runner, runner.agent, command.turn));
      return;
    case "decision":
      return decided(runner, command.call, command.isAllowed);
    case "hibernate":
      return inTurn(runner, (staying) => hibernate(runner, command, staying));
    case "terminate":
      runner.isLeaving = true;
      return inTurn(runner, (staying) => terminate(runner, command, staying));
  }
}

/** The agent takes its time to end its turn, and may be stopped meanwhile. */
function* interrupt(runner: Runner, agent: Agent, turn: number): Task {
  yield sleep(runner.world, runner.world.random.between(5, 300));
  if (runner.agent !== agent || runner.turn !== turn) return;
  stopAgent(runner);
  say(runner, "result", "interrupted");
  runner.agent = startAgent(runner);
}

function decided(runner: Runner, callId: string, isAllowed: boolean): void {
  const gate = runner.asked.get(callId);
  if (gate) tell(gate, isAllowed);
  else runner.early.set(callId, isAllowed);
}

type Staying = Runner["staying"];

function inTurn(runner: Runner, job: (staying: Staying) => Task): void {
  runner.staying.isAborted = true;
  const staying = { isAborted: false };
  runner.staying = staying;
  tell(runner.jobs, () => job(staying));
}

function* putter(runner: Runner): Task {
  for (;;) {
    if (runner.jobs.told.length === 0) {
      yield (thread, ticket) => {
        runner.jobs.waiting = (job) => {
          runner.jobs.told.push(job);
          runner.world.scheduler.resume(thread, ticket, 0);
        };
      };
    }
    yield* runner.jobs.told.shift()!();
  }
}

/** The command that asks for a snapshot. */
type AskedSnapshot = { id: number; generation: number };

/** Nothing runs while the session is put away. Should it be wanted awake meanwhile, or not be kept, it goes on. */
function* hibernate(runner: Runner, asked: AskedSnapshot, staying: Staying): Task {
  const { world, lease } = runner;
  if (staying.isAborted) return;
  try {
    if (yield* putAway(runner, asked, staying)) return kill(runner.sandbox.process);
  } catch (error) {
    if (!(error instanceof Refusal) || error.reason === service.fenced) throw error;
    if (!staying.isAborted) yield* ask(runner, (plane) => service.abandonSnapshot(world, plane, lease, asked.generation));
  }
  if (!runner.isLeaving) runner.agent ??= startAgent(runner);
}

function* putAway(runner: Runner, { id: commandId, generation }: AskedSnapshot, staying: Staying): Task<boolean> {
  const { world, lease, sandbox } = runner;
  const { stopAgentBeforePacking, flushBeforePacking, leaveAfterCommit } = world.rules.order;
  if (stopAgentBeforePacking) stopAgent(runner);
  if (world.random.chance(0.5)) say(runner, "system", "background_processes_stopped");
  if (flushBeforePacking) yield* flushed(runner);
  const { files } = sandbox.box;
  for (;;) {
    if (staying.isAborted) return false;
    const put = call(
      world,
      () => planeOf(world, sandbox).process,
      () => service.putSnapshot(world, planeOf(world, sandbox), lease, sandbox.process, { generation, commandId, files }),
      times.archiveTimeoutMs,
    );
    if (!leaveAfterCommit) kill(sandbox.process);
    try {
      return ((yield put) as boolean) && !staying.isAborted;
    } catch (error) {
      if (!(error instanceof Refusal) || error.reason !== "UNAVAILABLE") throw error;
      yield sleep(world, 100);
    }
  }
}

/** Brings a last snapshot out where one is asked for; whoever asked does not wait for long. */
function* terminate(runner: Runner, asked: AskedSnapshot, staying: Staying): Task {
  const { world, lease } = runner;
  stopAgent(runner);
  try {
    if (asked.generation > 0) yield* putAway(runner, asked, staying);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
  }
  yield* flushed(runner);
  yield* ask(runner, (plane) => service.detach(world, plane, lease, 0));
  kill(runner.sandbox.process);
}
