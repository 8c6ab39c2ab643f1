// The reconciler of a control plane (server/runners/reconciler.ts, steps.ts, hibernation.ts): looks, takes one step, looks again.
import { failRestore, keepAwake, putOff } from "./hibernation.ts";
import { type ControlPlane, change, present, readRow } from "./journal.ts";
import { destroy, launch, listSandboxes, removeFiles, type Start } from "./machine.ts";
import { settled } from "./model-gateway.ts";
import { expirePauses, isUnanswered } from "./pauses.ts";
import { Refusal, type Task } from "./scheduler.ts";
import { append, command, type Row, set } from "./tables.ts";
import { closePauses, forgetCommands, isOnlyWaiting, report, settleTurn } from "./turns.ts";
import { newId, newNumber, readTables, sleep, times, tries, unavailable, type World } from "./world.ts";

type TakeStep = (world: World, plane: ControlPlane, seen: Row) => Task;
/** Nobody leaves in this world, so nothing is ever erased. */
type Step = Exclude<ReturnType<World["rules"]["nextStep"]>, "wait" | "erase">;

const deadlines = { endGraceMs: times.endGraceMs, maxRestarts: times.maxRestarts, archiveTimeoutMs: times.archiveTimeoutMs };

const steps: Record<Step, TakeStep> = {
  launch: start,
  recover,
  give_up: (world, plane, seen) => wishEnd(world, plane, seen, "heartbeat_stale"),
  expire: (world, plane, seen) => wishEnd(world, plane, seen, "max_duration_exceeded"),
  startup_timeout: (world, plane, seen) => wishEnd(world, plane, seen, "startup_timeout"),
  give_up_restore: (world, plane, seen) => change(world, plane, seen.id, unmoved(world, seen), (one) => failRestore(world, one)),
  hibernate,
  stay_awake: (world, plane, seen) => change(world, plane, seen.id, unmoved(world, seen), (one) => keepAwake(world, one)),
  clear,
  wake: (world, plane, seen) => change(world, plane, seen.id, unmoved(world, seen), (one) => set(one, world.rules.woken(one.now))),
  ask_to_end: askToEnd,
  force_end: forceEnd,
};

/** Would hardly ever meet anything otherwise. */
const rareSteps: Partial<Record<Step, true>> = { stay_awake: true, give_up_restore: true, hibernate: true };

export function unmoved(world: World, seen: Row): (row: Row) => void {
  return (row) => {
    if (!world.rules.isUnmoved(row, seen)) throw new Refusal("MOVED");
  };
}

export function* lookAround(world: World, plane: ControlPlane): Task {
  const { memory } = plane;
  for (;;) {
    const { now } = world.scheduler;
    // Who was stopped, or had no database for a heartbeat to be recorded in, has no right to call anybody late.
    if (now - memory.lastLook > times.intervalMs + times.blindMs) memory.seeingSince = now;
    try {
      const due = (yield readTables(world, (row) => row.host === plane.host && isDue(world, row))) as string[];
      for (const id of due) poke(world, plane, id);
      for (const id of (yield readTables(world, (row) => row.host === plane.host && isUnattended(world, row))) as string[]) {
        yield* change(world, plane, id, isNotOver, (one) => expirePauses(world.rules, one));
        world.checker.reach("nobody answered in time");
      }
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      memory.seeingSince = world.scheduler.now;
    }
    memory.lastLook = world.scheduler.now;
    yield sleep(world, times.intervalMs);
  }
}

/** What `listDue` of server/runners/store.ts asks the database. */
function isDue({ rules, scheduler: { now } }: World, row: Row): boolean {
  if (row.state === "ended" || (row.retry_at !== null && row.retry_at.getTime() > now)) return false;
  const isOver = row.desired === "end" || (row.ends_at !== null && row.ends_at.getTime() < now);
  if (rules.isParked(row) && !isOver && !(row.state === "dormant" && row.desired === "hibernate")) return false;
  if (row.state !== "running" && row.state !== "dormant") return true;
  if (row.desired === "end") return true;
  if (row.state === "dormant" && (row.box !== null || row.desired === "run")) return true;
  if (row.state === "running" && row.desired === "hibernate") return true;
  if (row.retry_at !== null && !rules.isParked(row)) return true;
  if (row.state === "running" && !rules.isOccupied(row) && row.active_at.getTime() < now - times.idleMs) return true;
  return (row.lease_until !== null && row.lease_until.getTime() < now) || (row.ends_at !== null && row.ends_at.getTime() < now);
}

/** What `listUnanswered` asks. */
function isUnattended({ store, scheduler: { now } }: World, { id, one_shot, state, pending_count }: Row): boolean {
  if (!one_shot || pending_count === 0 || (state !== "running" && state !== "dormant")) return false;
  return [...store.sessions.get(id)!.pauses.values()].some((pause) => isUnanswered(pause, now));
}

function isNotOver({ state }: Row): void {
  if (state === "ended") throw new Refusal("SESSION_ENDED");
}

/** One look at a time for each session; asked meanwhile, or after a step, it looks again. */
export function poke(world: World, plane: ControlPlane, sessionId: string): void {
  const { process, memory } = plane;
  if (!process.alive) return;
  if (memory.busy.has(sessionId)) return void memory.again.add(sessionId);
  memory.busy.add(sessionId);
  world.scheduler.spawn(process, work(world, plane, sessionId));
}

function* work(world: World, plane: ControlPlane, sessionId: string): Task {
  const { again, busy } = plane.memory;
  do {
    again.delete(sessionId);
    try {
      if (yield* look(world, plane, sessionId)) again.add(sessionId);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.reason === "MOVED") continue;
      again.delete(sessionId);
    }
  } while (again.has(sessionId));
  busy.delete(sessionId);
}

function* look(world: World, plane: ControlPlane, sessionId: string): Task<boolean> {
  const seen = yield* readRow(world, sessionId);
  if (seen.state === "ended" || seen.host !== plane.host) return false;
  const { now } = world.scheduler;
  const graceLeftMs = seen.handle === null ? Number.NEGATIVE_INFINITY : plane.memory.seeingSince + times.reconnectMs - now;
  const sandbox = seen.handle === null ? undefined : world.sandboxes.has(seen.handle) ? "running" : "exited";
  const clock = world.rules.order.useDatabaseClock ? now : now + plane.process.skewMs;
  const { restartWindowMs, idleMs } = times;
  const observed = world.rules.observed(seen, { now: clock, sandbox, graceLeftMs, restartWindowMs, idleMs });
  const step = world.rules.nextStep(observed, deadlines);
  world.checker.decided(seen, step, observed);
  const forget = { failures: 0, failing_since: null, retry_at: null };
  if (step === "wait") {
    if (seen.retry_at !== null && !world.rules.isHeld(observed)) yield* countAgainst(world, plane, seen, forget);
    return false;
  }
  if (world.random.chance(step in rareSteps ? 5 * world.faults.slowStep : world.faults.slowStep)) {
    world.checker.reach("fault: a step is slow");
    yield sleep(world, world.random.between(50, 2_500));
  }
  if (step === "erase") throw new Error("somebody left");
  try {
    yield* steps[step](world, plane, seen);
  } catch (error) {
    if (!(error instanceof Refusal) || error.reason === "MOVED") throw error;
    yield* setBack(world, plane, seen, step, error.reason);
    return false;
  }
  if (seen.retry_at !== null) yield* countAgainst(world, plane, seen, forget);
  return true;
}

/** What comes of a step that failed (server/runners/parking.ts). */
function* setBack(world: World, plane: ControlPlane, seen: Row, step: Step, why: string): Task {
  const until = (pauseMs: number) => new Date(world.scheduler.now + pauseMs);
  if (why === unavailable) return yield* countAgainst(world, plane, seen, { retry_at: until(databasePauseMs) });
  const { now } = world.scheduler;
  const { failures, pauseMs, parks } = world.rules.setback(seen, step, tries, { now, random: world.random.next() });
  const since = seen.failing_since ?? new Date(now);
  if (!parks) return yield* countAgainst(world, plane, seen, { failures, failing_since: since, retry_at: until(pauseMs) });
  world.checker.reach("a session is parked");
  yield* countAgainst(world, plane, seen, world.rules.parked(failures, new Date(world.scheduler.now)), step);
}

/** Unless somebody has asked for the session meanwhile, or another server has parked it. */
function* countAgainst(world: World, plane: ControlPlane, seen: Row, values: Partial<Row>, parkedFor?: Step): Task {
  yield* change(world, plane, seen.id, present, (one) => {
    const { isParked } = world.rules;
    const isSame = one.row.failures === seen.failures && one.row.desired === seen.desired && isParked(one.row) === isParked(seen);
    if (!isSame || (parkedFor && world.rules.hasGotFurther(one.row, seen, parkedFor))) return;
    set(one, values);
    if (values.parked_at) append(one, "system", "parked");
  });
}

const databasePauseMs = 500;

function* start(world: World, plane: ControlPlane, seen: Row): Task {
  const { order } = world.rules;
  if (order.emptyHalfRestored && seen.restoring && seen.box !== null) yield* removeFiles(world, seen.box);
  const kept = order.emptyHalfRestored && seen.restoring ? null : seen.box;
  const box = kept ?? newId(world, "box");
  const attachToken = newNumber(world);
  const phantomToken = newNumber(world);
  const epoch = yield* change(world, plane, seen.id, unmoved(world, seen), (one) => {
    const launched = world.rules.launched(one.row, one.now, times.startupTimeoutMs);
    set(one, { ...launched, box, attach_hash: attachToken, phantom_hash: phantomToken });
    return one.row.epoch;
  });
  const orders: Start = { box, host: plane.host, run: epoch, attachToken, phantomToken, session: seen.id };
  let handle: number;
  try {
    handle = yield* launch(world, orders);
  } catch (error) {
    yield* change(world, plane, seen.id, present, (one) => {
      if (one.row.epoch === epoch && one.row.state === "starting") set(one, world.rules.unlaunched(one.row, one.now));
    });
    throw error;
  }
  yield* keepHandle(world, plane, { sessionId: seen.id, epoch, handle });
}

/** Ties a sandbox to its session; one that its session no longer wants is ended again at once. */
function* keepHandle(
  world: World,
  plane: ControlPlane,
  { sessionId, epoch, handle }: { sessionId: string; epoch: number; handle: number },
): Task {
  let isKept: boolean;
  try {
    isKept = yield* change(world, plane, sessionId, present, (one) => {
      if (one.row.epoch !== epoch || one.row.state === "ended") return false;
      set(one, { handle });
      return true;
    });
  } catch (error) {
    yield* destroy(world, handle);
    throw error;
  }
  if (!isKept) yield* destroy(world, handle);
}

function* destroySandboxes(world: World, plane: ControlPlane, seen: Row): Task {
  if (seen.handle !== null) yield* destroy(world, seen.handle);
  if (!world.rules.order.destroyUnknown) return;
  const found = yield* listSandboxes(world, plane.host);
  for (const { id, box } of found) if (box === seen.box) yield* destroy(world, id);
}

/** Puts into the log what the runner had said and could not report any more. */
function* hearSpool(world: World, plane: ControlPlane, seen: Row): Task {
  const spool = seen.box === null || seen.lease_hash === null ? undefined : world.boxes.get(seen.box)?.spool;
  if (!spool || spool.epoch !== seen.epoch || !world.rules.order.hearSpool) return;
  const first = spool.firstSeq;
  const left = [...spool.events];
  for (let at = 0; at < left.length; at += 3) {
    const firstSeq = first + at;
    const events = left.slice(at, at + 3);
    if (events.some(({ kind }) => kind === "result")) yield* settled(world, plane, seen.id);
    const follows = yield* change(world, plane, seen.id, unmoved(world, seen), (one) => {
      if ("expected" in world.rules.alreadyCommitted(one.row.last_runner_seq, firstSeq, events.length)) return false;
      report(world.rules, one, firstSeq, events);
      world.checker.reach("spool heard");
      return true;
    });
    if (!follows) return;
  }
}

function* recover(world: World, plane: ControlPlane, seen: Row): Task {
  const { rules } = world;
  if (rules.order.destroyBeforeNext) yield* destroySandboxes(world, plane, seen);
  yield* hearSpool(world, plane, seen);
  if (!rules.order.emptyAfterRecovery && seen.restoring && seen.box !== null) yield* removeFiles(world, seen.box);
  yield* change(world, plane, seen.id, unmoved(world, seen), (one) => {
    set(one, rules.recovered(one.row, one.now, times.restartWindowMs));
    forgetCommands(rules, one, one.row.last_command_id);
    settleTurn(rules, one);
  });
  if (!rules.order.destroyBeforeNext) yield* destroySandboxes(world, plane, seen);
}

function* hibernate(world: World, plane: ControlPlane, seen: Row): Task {
  const { rules } = world;
  yield* change(world, plane, seen.id, unmoved(world, seen), (one) => {
    if (!rules.isUnused(one.row, one.now, times.idleMs)) return;
    if (one.row.turn > 0 && !isOnlyWaiting(rules, one)) return putOff(world, one);
    set(one, rules.hibernating(one.now));
    command(one, { kind: "hibernate", generation: rules.nextGeneration(one.row) });
  });
}

function* clear(world: World, plane: ControlPlane, seen: Row): Task {
  yield* destroySandboxes(world, plane, seen);
  yield* settled(world, plane, seen.id);
  if (seen.box !== null) yield* removeFiles(world, seen.box);
  yield* change(world, plane, seen.id, unmoved(world, seen), (one) => set(one, { box: null, handle: null }));
}

function* askToEnd(world: World, plane: ControlPlane, seen: Row): Task {
  yield* change(world, plane, seen.id, unmoved(world, seen), (one) => {
    set(one, world.rules.ending(one.now));
    const generation = one.row.sdk_session_id && !one.row.restoring ? world.rules.nextGeneration(one.row) : 0;
    command(one, { kind: "terminate", generation });
  });
}

function* forceEnd(world: World, plane: ControlPlane, seen: Row): Task {
  if (world.rules.order.destroyBeforeNext) yield* destroySandboxes(world, plane, seen);
  yield* hearSpool(world, plane, seen);
  yield* settled(world, plane, seen.id);
  if (seen.box !== null) yield* removeFiles(world, seen.box);
  yield* change(world, plane, seen.id, unmoved(world, seen), (one) => {
    closePauses(one, "ended");
    if (one.row.turn > 0) {
      append(one, "system", "turn_interrupted");
      set(one, { turn: 0, turn_acted: false });
    }
    const { tables } = one;
    one.also.push(() => Object.assign(tables, { commands: [], queue: [] }));
    set(one, world.rules.ended(one.now, one.row.exit_code));
    append(one, "sessionEnd", one.row.end_reason ?? "failed");
  });
  if (!world.rules.order.destroyBeforeNext) yield* destroySandboxes(world, plane, seen);
}

function* wishEnd(world: World, plane: ControlPlane, seen: Row, reason: string): Task {
  yield* change(world, plane, seen.id, unmoved(world, seen), (one) => set(one, world.rules.wishToEnd(one.row, reason) ?? {}));
}

/** Sandboxes of sessions that want them are taken back, the others ended, and files of nobody removed. */
export function* adoptSandboxes(world: World, plane: ControlPlane): Task {
  const found = yield* listSandboxes(world, plane.host);
  for (const { id, box, run } of found) {
    const [sessionId] = (yield readTables(world, (row) => row.box === box && row.state !== "ended" && row.epoch === run)) as string[];
    if (sessionId !== undefined) {
      if (!world.rules.order.takeBack) continue;
      yield* keepHandle(world, plane, { sessionId, epoch: run, handle: id });
    } else yield* destroy(world, id);
  }
  const boxes = [...world.boxes.values()].filter(({ host }) => host === plane.host);
  for (const { id } of boxes) {
    const wanted = (yield readTables(world, (row) => row.box === id && row.state !== "ended")) as string[];
    if (wanted.length === 0) yield* removeFiles(world, id);
  }
}
