// A control plane's side of the sandbox channel (server/runners/service.ts, snapshots.ts).

import { failRestore, finishRestore, keepAwake, putAway } from "./hibernation.ts";
import { type ControlPlane, change, changeOptimistically, type Guard, readRow, tablesOf } from "./journal.ts";
import { settled } from "./model-gateway.ts";
import { deleteBlob, discardUnnamed, readBlob, transfer, upload } from "./object-store.ts";
import { type AskedCall, decideTool, type Verdict } from "./pauses.ts";
import { createGate, type Process, Refusal, type Task } from "./scheduler.ts";
import { type Stream, send } from "./streams.ts";
import { type Change, type Command, type Snapshot, set } from "./tables.ts";
import { forgetCommands, report, startNextTurn, wake } from "./turns.ts";
import { type Blob, newNumber, readTables, type SpooledEvent, times, type World, waitAt } from "./world.ts";

export type Lease = { token: number; sessionId: string; epoch: number };
export type Attached = Lease & { restore: number | undefined; conversation: string | null };
export const fenced = "FENCED";

function underLease(world: World, { epoch }: Lease): Guard {
  return (row) => {
    if (!world.rules.holdsLease(row, epoch)) throw new Refusal(fenced);
  };
}

/** The lease of a call: by its token, which is looked up once. */
function* requireLease(world: World, plane: ControlPlane, lease: Lease): Task {
  const { leases } = plane.memory;
  if (leases.has(lease.token)) return;
  const [found] = (yield readTables(world, (row) => row.lease_hash === lease.token)) as string[];
  if (found !== lease.sessionId) throw new Refusal(fenced);
  leases.set(lease.token, lease);
}

export function* attach(world: World, plane: ControlPlane, attachToken: number): Task<Attached> {
  const { rules } = world;
  const [found] = (yield readTables(world, (row) => row.attach_hash === attachToken)) as string[];
  if (found === undefined) throw new Refusal(fenced);
  const token = newNumber(world);
  const guard: Guard = (row) => {
    if (row.attach_hash !== attachToken || !rules.awaitsRunner(row)) throw new Refusal(fenced);
  };
  return yield* change(world, plane, found, guard, (one) => {
    set(one, { ...rules.attached(one.row, one.now, times), ...rules.unparked(one.row), lease_hash: token });
    const { restoring, snapshot_generation, epoch, sdk_session_id: conversation } = one.row;
    const isToBeRestored = rules.isToBeRestored({ restoring, snapshot_generation });
    if (!isToBeRestored) startNextTurn(rules, one);
    return { token, sessionId: found, epoch, restore: isToBeRestored ? snapshot_generation! : undefined, conversation };
  });
}

export type Batch = { firstSeq: number; events: readonly SpooledEvent[]; ackedCommandId: number };

export function* reportEvents(world: World, plane: ControlPlane, lease: Lease, batch: Batch): Task<number> {
  yield* requireLease(world, plane, lease);
  if (batch.events.some(({ kind }) => kind === "result")) yield* settled(world, plane, lease.sessionId);
  const commit = () =>
    changeOptimistically(world, plane, lease.sessionId, underLease(world, lease), (one) => {
      report(world.rules, one, batch.firstSeq, batch.events);
      if (batch.ackedCommandId > one.row.acked_command_id) {
        forgetCommands(world.rules, one, batch.ackedCommandId);
        set(one, { acked_command_id: batch.ackedCommandId });
      }
      set(one, { lease_until: new Date(one.now.getTime() + times.staleMs), ...world.rules.unparked(one.row) });
      return one.row.last_runner_seq;
    });
  const last = world.rules.order.acknowledgeAfterCommit ? yield* commit() : acknowledgeEarly(world, plane, batch, commit());
  world.checker.acknowledged(lease, last);
  return last;
}

/** Only as a planted bug. */
function acknowledgeEarly(world: World, plane: ControlPlane, { firstSeq, events }: Batch, commit: Task<unknown>): number {
  world.scheduler.spawn(plane.process, commit, undefined, () => undefined);
  return firstSeq + events.length - 1;
}

export function* decide(world: World, plane: ControlPlane, lease: Lease, asked: AskedCall, verdict: Verdict): Task<boolean | undefined> {
  yield* requireLease(world, plane, lease);
  return yield* change(world, plane, lease.sessionId, underLease(world, lease), (one) =>
    world.rules.isOfPastTurn(one.row, asked.turn) ? false : decideTool(world.rules, one, asked, verdict),
  );
}

/** Sends the commands after `afterId`, and those to come, until the lease is over. */
export function* watchCommands(world: World, plane: ControlPlane, lease: Lease, afterId: number, stream: Stream<Command>): Task {
  yield* requireLease(world, plane, lease);
  const gate = createGate<void>();
  const { followers } = plane.memory;
  const mine = followers.get(lease.sessionId) ?? new Set();
  followers.set(lease.sessionId, mine.add(gate));
  let cursor = afterId;
  while (!stream.isCut) {
    const row = yield* readRow(world, lease.sessionId);
    if (row.epoch !== lease.epoch || row.state === "ended") throw new Refusal(fenced);
    const fresh = tablesOf(world, lease.sessionId).commands.filter(({ id }) => id > cursor);
    for (const command of fresh) {
      send(world, plane.process, stream, command);
      cursor = command.id;
    }
    if (fresh.length === 0) yield* waitAt(world, gate, times.keepAliveMs);
  }
  mine.delete(gate);
}

export function* detach(world: World, plane: ControlPlane, lease: Lease, exitCode: number): Task {
  yield* requireLease(world, plane, lease);
  yield* change(world, plane, lease.sessionId, underLease(world, lease), (one) => {
    set(one, { exit_code: exitCode });
    set(one, world.rules.wishToEnd(one.row, exitCode === 0 ? "job_completed" : "failed") ?? {});
  });
}

/** Keeps what comes of a runner, reads it back, and only then moves the pointer. True when it is the current snapshot. */
export function* putSnapshot(
  world: World,
  plane: ControlPlane,
  lease: Lease,
  from: Process,
  content: { generation: number; commandId: number; files: number },
): Task<boolean> {
  yield* requireLease(world, plane, lease);
  const row = yield* readRow(world, lease.sessionId);
  if (!world.rules.isAskedFor(row, content.generation)) return false;
  const mine = newNumber(world);
  plane.memory.putting.set(lease.sessionId, mine);
  const isCut = () => !from.alive || plane.memory.putting.get(lease.sessionId) !== mine;
  const archive = `${lease.sessionId}/${mine}`;
  const blob: Blob = {
    archive,
    session: lease.sessionId,
    ...content,
    isWhole: false,
    isDamaged: false,
    madeAtMs: world.scheduler.now + plane.process.skewMs,
  };
  if (!world.rules.order.pointAfterUpload) {
    const isCommitted = yield* commit(world, plane, lease, content, archive);
    yield* upload(world, blob, isCut);
    return isCommitted;
  }
  yield* upload(world, blob, isCut);
  return yield* commit(world, plane, lease, content, archive);
}

/** The pointer moves only here, under the lease and only while the snapshot is still asked for. */
function* commit(
  world: World,
  plane: ControlPlane,
  lease: Lease,
  { generation, commandId }: { generation: number; commandId: number },
  archive: string,
): Task<boolean> {
  const { rules } = world;
  if (!rules.order.removeOldAfterCommit) for (const old of tablesOf(world, lease.sessionId).snapshots) deleteBlob(world, old.archive);
  let replaced: Snapshot[] | undefined;
  try {
    replaced = yield* change(world, plane, lease.sessionId, underLease(world, lease), (one) => {
      // Something of the agent's may have asked for a person after it was told to rest.
      if (one.row.state === "hibernating" && rules.isOccupied(one.row)) wake(rules, one);
      if (!rules.isAskedFor(one.row, generation) || !rules.isLastAsked(one.row, commandId)) return undefined;
      point(one, generation, archive);
      set(one, { ...rules.unparked(one.row) });
      if (one.row.state === "hibernating") putAway(world, one);
      return one.tables.snapshots.filter((old) => old.generation < generation - snapshotsKept + 1);
    });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    yield* discardUnnamed(world, archive);
    throw error;
  }
  for (const old of replaced ?? []) deleteBlob(world, old.archive);
  if (!replaced) yield* discardUnnamed(world, archive);
  plane.poke(lease.sessionId);
  return replaced !== undefined;
}

const snapshotsKept = 2;

function point(one: Change, generation: number, archive: string): void {
  const { tables, row } = one;
  const snapshot: Snapshot = { generation, archive, epoch: row.epoch, seq: row.last_seq };
  one.also.push(() => {
    tables.snapshots = [...tables.snapshots.filter((old) => old.generation >= generation - snapshotsKept + 1), snapshot];
  });
  set(one, { snapshot_generation: generation, snapshot_at: one.now });
}

export function* abandonSnapshot(world: World, plane: ControlPlane, lease: Lease, generation: number): Task {
  yield* requireLease(world, plane, lease);
  yield* change(world, plane, lease.sessionId, underLease(world, lease), (one) => {
    if (world.rules.isAskedFor(one.row, generation) && one.row.state === "hibernating") keepAwake(world, one);
  });
}

export function* getSnapshot(world: World, plane: ControlPlane, lease: Lease, generation: number): Task<number> {
  yield* requireLease(world, plane, lease);
  yield* readRow(world, lease.sessionId);
  const snapshot = tablesOf(world, lease.sessionId).snapshots.find((one) => one.generation === generation);
  if (!snapshot) throw new Refusal("SNAPSHOT_GONE");
  yield* transfer(world);
  if (world.random.chance(world.faults.unreadable)) {
    world.checker.reach("fault: a snapshot cannot be read");
    throw new Refusal("SNAPSHOT_GONE");
  }
  return yield* readBlob(world, snapshot.archive);
}

export function* reportRestore(world: World, plane: ControlPlane, lease: Lease, isBack: boolean): Task {
  yield* requireLease(world, plane, lease);
  yield* change(world, plane, lease.sessionId, underLease(world, lease), (one) => {
    if (!one.row.restoring) return;
    if (isBack) finishRestore(world, one);
    else failRestore(world, one);
  });
  plane.poke(lease.sessionId);
}
