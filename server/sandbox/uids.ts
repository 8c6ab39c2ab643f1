import { randomInt } from "node:crypto";
import { readdirSync, statSync } from "node:fs";
import { mkdir, readdir, readFile, readlink, rm, symlink } from "node:fs/promises";
import { join } from "node:path";

/** Users of the host that sandboxes run as, one each, so that no sandbox is root or shares anything with another. */
export type UidPool = {
  /** Reserves a user no process runs as, on behalf of a sandbox, until `release`. */
  reserve(sandboxId: string): Promise<number>;
  release(uid: number): Promise<void>;
};

export type UidRange = { first: number; count: number };

// Between the ranges that distributions, subordinate ids and containers use and the ones that break signed numbers.
const preferredRange: UidRange = { first: 1_900_000_000, count: 10_000 };

/** The usual range, or, where this process lives in a user namespace without it, the top of the largest range it has. */
export async function defaultUidRange(): Promise<UidRange> {
  const maps = (await readFile("/proc/self/uid_map", "utf8")).trim().split("\n");
  const ranges = maps.map((line) => line.trim().split(/\s+/).map(Number));
  const end = preferredRange.first + preferredRange.count;
  if (ranges.some(([first = 0, , count = 0]) => first <= preferredRange.first && end <= first + count)) {
    return preferredRange;
  }
  const [first = 0, , count = 0] = ranges.sort((one, other) => (other[2] ?? 0) - (one[2] ?? 0))[0] ?? [];
  // The last thousand hold `nobody` and its kind.
  const usable = Math.min(preferredRange.count, count - 2_000);
  if (usable < 1_000) throw new Error("this machine grants the control plane no users to run sandboxes as");
  return { first: first + count - 1_000 - usable, count: usable };
}

/**
 * Reservations are symbolic links named after the user: creating one is atomic, also between processes. A random start
 * keeps other installations on this machine, whose reservations we cannot see, away from the same user.
 */
export async function createUidPool(directory: string, range: UidRange, exists: (sandboxId: string) => Promise<boolean>): Promise<UidPool> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await dropStaleReservations(directory, exists);
  return {
    reserve: async (sandboxId) => {
      const busy = uidsOfRunningProcesses();
      const start = randomInt(range.count);
      for (let step = 0; step < range.count; step++) {
        const uid = range.first + ((start + step) % range.count);
        if (!busy.has(uid) && (await link(sandboxId, join(directory, String(uid))))) return uid;
      }
      throw new Error("every user that sandboxes may run as is taken");
    },
    release: (uid) => rm(join(directory, String(uid)), { force: true }),
  };
}

// A reservation outlives its sandbox only when the control plane died between the two steps of giving it up.
async function dropStaleReservations(directory: string, exists: (id: string) => Promise<boolean>): Promise<void> {
  for (const uid of await readdir(directory)) {
    const path = join(directory, uid);
    if (!(await exists(await readlink(path)))) await rm(path, { force: true });
  }
}

async function link(target: string, path: string): Promise<boolean> {
  try {
    await symlink(target, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

// Synchronous on purpose: a few hundred stats of /proc take a millisecond this way and ten through the thread pool.
function uidsOfRunningProcesses(): Set<number> {
  const uids = new Set<number>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const stat = statSync(`/proc/${name}`, { throwIfNoEntry: false });
    if (stat) uids.add(stat.uid);
  }
  return uids;
}
