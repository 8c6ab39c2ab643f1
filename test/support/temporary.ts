/** Temporary directories for tests. */
import { accessSync, constants, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

/** Short enough that a socket a few names below still fits the 107 bytes of a Unix address. */
const LONGEST = 40;

/** The first writable place with a short path; a deep checkout or TMPDIR would not leave room for socket names. */
export function shortTemporaryRoot(): string {
  const places = [tmpdir(), "/tmp", "/dev/shm", "/var/tmp"];
  const place = places.find((candidate) => candidate.length <= LONGEST && isWritable(candidate));
  if (place === undefined) throw new Error(`none of ${places.join(", ")} is writable and short; set TMPDIR to a directory that is`);
  return place;
}

/** A new directory named `carrel-<purpose>-<pid>-…`, so that what a killed run left behind can be told from what is in use. */
export function makeTemporaryDirectory(purpose: string): string {
  return mkdtempSync(path.join(shortTemporaryRoot(), `carrel-${purpose}-${process.pid}-`));
}

/** Directories of this purpose whose makers are gone. */
export function findAbandoned(purpose: string): string[] {
  const root = shortTemporaryRoot();
  return readdirSync(root)
    .filter((name) => {
      const [, pid] = new RegExp(`^carrel-${purpose}-(\\d+)-`).exec(name) ?? [];
      return pid !== undefined && !isAlive(Number(pid));
    })
    .map((name) => path.join(root, name));
}

export function removeDirectory(directory: string): void {
  rmSync(directory, { recursive: true, force: true });
}

function isWritable(directory: string): boolean {
  try {
    accessSync(directory, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
