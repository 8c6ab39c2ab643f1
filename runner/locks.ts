// Files that their own owner may not read, and directories in which it may not do everything: opened for a while, and closed again.
import { chmod } from "node:fs/promises";
import { type BytePath, bytesOf, listEntries, type Roots } from "./listing.ts";

/** The permission bits that something really has. */
export type Lock = { path: BytePath; mode: number };

const locked = ["(", "-type", "d", "!", "-perm", "-700", "-o", "-type", "f", "!", "-perm", "-400", ")"];

/** Lets the owner read every file and do everything in every directory. Answers with what `lock` needs to undo that; undone when it throws. */
export async function unlock(roots: Roots): Promise<Lock[]> {
  const locks: Lock[] = [];
  try {
    // Behind a directory that could not be looked into there may be others.
    for (let opened = -1; opened !== locks.length; ) {
      opened = locks.length;
      await openAll(roots, locks);
    }
    return locks;
  } catch (error) {
    await lock(locks);
    throw error;
  }
}

/** Sets what was unlocked to what it was, a directory after what is in it. */
export async function lock(locks: readonly Lock[]): Promise<void> {
  for (const { path, mode } of locks.toSorted((one, other) => (one.path < other.path ? 1 : -1))) await chmod(bytesOf(path), mode);
}

async function openAll(roots: Roots, locks: Lock[]): Promise<void> {
  const found = [];
  try {
    for await (const entry of listEntries(roots, locked)) found.push(entry);
  } catch (error) {
    // It could not be looked into what is opened now.
    if (found.length === 0) throw error;
  }
  for (const { path, mode, isDirectory } of found) {
    locks.push({ path, mode });
    await chmod(bytesOf(path), mode | (isDirectory ? 0o700 : 0o400));
  }
}
