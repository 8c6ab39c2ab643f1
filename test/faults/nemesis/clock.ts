// Wrong clocks, by the library of Debian's package faketime. Only what a process takes for the time of day is wrong; how time passes is not.
import { execFileSync } from "node:child_process";

/** What a process needs in its environment to be off by so much, as `+1h`. */
export function clockOf(offset: string): Record<string, string> {
  const library = findLibrary();
  if (library === undefined) throw new Error(noClocks());
  return { LD_PRELOAD: library, FAKETIME: offset, FAKETIME_DONT_FAKE_MONOTONIC: "1" };
}

/** Why clocks cannot be turned here; undefined where they can. */
export function noClocks(): string | undefined {
  return findLibrary() === undefined ? "the program faketime is not installed" : undefined;
}

/** The program knows where its library is and tells those whom it starts. */
function findLibrary(): string | undefined {
  try {
    return /^LD_PRELOAD=(\S+)$/m.exec(execFileSync("faketime", ["-f", "+1h", "env"], { encoding: "utf8" }))?.[1];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
