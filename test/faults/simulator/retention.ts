// What nobody needs any more goes (server/snapshots/retention.ts).
import { type ControlPlane, change, present } from "./journal.ts";
import { deleteBlob, isNamedBy } from "./object-store.ts";
import { Refusal, type Task } from "./scheduler.ts";
import { type Row, set } from "./tables.ts";
import { act, readTables, sleep, times, transaction, type World } from "./world.ts";

export function* enforceRetention(world: World, plane: ControlPlane): Task {
  for (;;) {
    yield sleep(world, times.sweepMs);
    try {
      yield* endUnused(world, plane);
      yield* forgetExpired(world);
      yield* removeStranded(world, plane);
    } catch (error) {
      // The next round tries again.
      if (!(error instanceof Refusal)) throw error;
    }
  }
}

function* endUnused(world: World, plane: ControlPlane): Task {
  const isUnused = (row: Row) => world.rules.isForgotten(row, new Date(world.scheduler.now), times.retentionMs);
  for (const id of (yield readTables(world, isUnused)) as string[]) {
    yield* change(world, plane, id, present, (one) => {
      if (!isUnused(one.row)) return;
      set(one, world.rules.wishToEnd(one.row, "max_duration_exceeded") ?? {});
      world.checker.reach("ended because nobody used it");
    });
  }
}

/** The rows first, then their archives: who dies between them leaves an archive that nothing names. */
function* forgetExpired(world: World): Task {
  const archives = (yield transaction(world, () => {
    const before = world.scheduler.now - times.retentionMs;
    const expired = [...world.store.sessions.values()].filter(
      ({ row }) => row.terminated_at !== null && row.terminated_at.getTime() < before,
    );
    const value = expired.flatMap(({ snapshots }) => snapshots.map(({ archive }) => archive));
    const forget = () => expired.forEach((tables) => (tables.snapshots = []));
    return { value, changes: [], also: forget };
  })) as string[];
  for (const archive of archives) yield* act(world, () => deleteBlob(world, archive));
}

/** Archives that nothing names, left by a process that died. Their age is by this process's clock, which may be off. */
function* removeStranded(world: World, plane: ControlPlane): Task {
  const clock = world.scheduler.now + plane.process.skewMs;
  const old = [...world.blobs.values()].filter(({ madeAtMs }) => clock - madeAtMs > world.rules.strandedMs);
  for (const { archive } of old) {
    const isNamed = (yield transaction(world, () => ({ value: isNamedBy(world, archive), changes: [] }))) as boolean;
    if (isNamed) continue;
    yield* act(world, () => deleteBlob(world, archive));
    world.checker.reach("stranded archive removed");
  }
}
