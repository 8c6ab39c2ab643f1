// Files that their own owner may not read, and directories in which it may not do everything: opened for a while, and closed again.
import { appendFile, chmod, lstat, readFile, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { type BytePath, bytesOf, type Entry, listEntries, type Roots } from "./listing.ts";

type Places = Pick<Roots, "directories" | "except" | "unlocked">;

/** The permission bits that something really has. */
export type Lock = { path: BytePath; mode: number };

const locked = ["(", "-type", "d", "!", "-perm", "-700", "-o", "-type", "f", "!", "-perm", "-400", ")"];

/** Lets the owner read every file and do everything in every directory. Answers with what `lock` needs to undo that; undone when it throws. */
export async function unlock(roots: Places): Promise<Lock[]> {
  const locks: Lock[] = [];
  await clearForeign(roots.unlocked);
  try {
    // Behind a directory that could not be looked into there may be others.
    for (let opened = -1; opened !== locks.length; ) {
      opened = locks.length;
      const found = await findLocked(roots);
      // The one exception to the next line, which needs it.
      const around = found.find(({ path }) => path === dirname(roots.unlocked));
      if (around) await chmod(bytesOf(around.path), around.mode | 0o700);
      // First of all, for the runner after this one.
      if (found.length > 0) await appendFile(roots.unlocked, recordsOf(found));
      for (const one of found) locks.push(one);
      for (const { path, mode, isDirectory } of found) await chmod(bytesOf(path), mode | (isDirectory ? 0o700 : 0o400));
    }
    return locks;
  } catch (error) {
    await lock(roots, locks);
    throw error;
  }
}

/** Sets what was unlocked to what it was, a directory after what is in it. An agent that is already awake may have removed some of it. */
export async function lock({ unlocked }: Pick<Roots, "unlocked">, locks: readonly Lock[]): Promise<void> {
  for (const { path, mode } of locks.toSorted((one, other) => (one.path < other.path ? 1 : -1))) {
    await chmod(bytesOf(path), mode).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT" && error.code !== "ENOTDIR") throw error;
    });
  }
  await rm(unlocked, { force: true });
}

/** The name is the runner's: whatever an agent has put there that is no file would only stand in the way. */
async function clearForeign(unlocked: string): Promise<void> {
  const found = await lstat(unlocked).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "EACCES") return undefined;
    throw error;
  });
  if (found && !found.isFile()) await rm(unlocked, { recursive: true, force: true });
}

/** Sets what a runner has unlocked that did not live to lock it again. */
export async function lockAgain(roots: Pick<Roots, "unlocked">): Promise<void> {
  await clearForeign(roots.unlocked);
  const records = await readFile(roots.unlocked, "latin1").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (records !== undefined) await lock(roots, locksOf(records));
}

/** Each as its mode in octal, a space, the path and a zero byte. */
export function recordsOf(locks: readonly Lock[]): Buffer {
  return bytesOf(locks.map(({ path, mode }) => `${mode.toString(8)} ${path}\0`).join(""));
}

/** The last record may have been cut, and then nothing was done about it. */
export function locksOf(records: string): Lock[] {
  return records
    .split("\0")
    .slice(0, -1)
    .map((one) => ({ mode: Number.parseInt(one, 8), path: one.slice(one.indexOf(" ") + 1) }));
}

async function findLocked(roots: Places): Promise<Entry[]> {
  const found: Entry[] = [];
  try {
    for await (const entry of listEntries(roots, locked)) found.push(entry);
  } catch (error) {
    // It could not be looked into what was found.
    if (found.length === 0) throw error;
  }
  return found;
}
