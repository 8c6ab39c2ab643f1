// The object store (server/snapshots/archives.ts): an archive is written in pieces, read back, and may get lost or altered.
import { Refusal, type Task } from "./scheduler.ts";
import { act, type Blob, sleep, transaction, unavailable, type World } from "./world.ts";

/** Keeps an archive whole, or nothing. `isCut` is true when whoever sends it has gone. */
export function* upload(world: World, blob: Blob, isCut: () => boolean): Task {
  const { random, blobs, faults, checker } = world;
  try {
    yield* act(world, () => {
      if (random.chance(faults.upload)) return refuse(world, "no room in the object store", "STORE_FULL");
      blobs.set(blob.archive, blob);
      blob.isDamaged = random.chance(faults.damage);
    });
    yield* transfer(world);
    yield* act(world, () => {
      if (isCut()) refuse(world, "a snapshot is cut", unavailable);
      if (random.chance(faults.upload)) refuse(world, "the object store fails", unavailable);
      if (blobs.has(blob.archive)) blob.isWhole = true;
    });
    yield* transfer(world);
    if (world.rules.order.readBack) yield* readBlob(world, blob.archive);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    yield* act(world, () => deleteBlob(world, blob.archive));
    if (error.reason !== "SNAPSHOT_GONE") throw error;
    checker.reach("fault: an archive is altered while it is written");
    throw new Refusal(unavailable);
  }
}

/** The bytes take a while, and sometimes very long. */
export function* transfer(world: World): Task {
  const { random } = world;
  const isHanging = random.chance(world.faults.hang);
  if (isHanging) world.checker.reach("fault: the object store hangs");
  yield sleep(world, isHanging ? 20_000 : random.chance(0.1) ? random.between(500, 4_000) : random.between(5, 200));
}

function refuse(world: World, fault: string, reason: string): never {
  world.checker.reach(`fault: ${fault}`);
  throw new Refusal(reason);
}

/** What is in an archive. */
export function readBlob(world: World, archive: string): Task<number> {
  return act(world, () => {
    const blob = world.blobs.get(archive);
    if (!blob?.isWhole || blob.isDamaged) throw new Refusal("SNAPSHOT_GONE");
    return blob.files;
  });
}

/** Removes an archive unless a row names it: whether a commit took place may be unknown, and then the row decides. */
export function* discardUnnamed(world: World, archive: string): Task {
  try {
    const isNamed = (yield transaction(world, () => ({ value: isNamedBy(world, archive), changes: [] }))) as boolean;
    if (!isNamed || !world.rules.order.askBeforeDiscarding) yield* act(world, () => deleteBlob(world, archive));
  } catch (error) {
    // It is collected when nobody has named it for a while.
    if (!(error instanceof Refusal)) throw error;
  }
}

export function isNamedBy(world: World, archive: string): boolean {
  const tables = world.store.sessions.get(archive.slice(0, archive.indexOf("/")));
  return tables?.snapshots.some((snapshot) => snapshot.archive === archive) ?? false;
}

export function deleteBlob(world: World, archive: string): void {
  world.checker.archiveRemoved(archive);
  world.blobs.delete(archive);
}
