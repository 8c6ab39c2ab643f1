import { readdir, readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import type { ProcessIdentity } from "./driver.ts";

type ProcessStat = { identity: ProcessIdentity; name: string; state: string; parent: number; session: number };

/** What changes with every boot of the machine, so that process numbers of an earlier one are never trusted. */
export async function readBootId(): Promise<string> {
  return (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
}

/** Parses a line of /proc/<pid>/stat. The name in it may hold spaces and brackets, so fields count from its end. */
export function parseStat(line: string): ProcessStat {
  const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
  const [state, parent, , session] = fields;
  const startTime = fields[19];
  if (!state || !parent || !session || !startTime) throw new Error(`unexpected process status line: ${line}`);
  return {
    identity: { pid: Number.parseInt(line, 10), startTime },
    name: line.slice(line.indexOf("(") + 1, line.lastIndexOf(")")),
    state,
    parent: Number(parent),
    session: Number(session),
  };
}

/** The process with this number now, or null when there is none (a zombie counts as none). */
export async function readProcess(pid: number): Promise<ProcessStat | null> {
  const line = await readFile(`/proc/${pid}/stat`, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ESRCH") return null;
    throw error;
  });
  if (line === null) return null;
  const stat = parseStat(line);
  return stat.state === "Z" || stat.state === "X" ? null : stat;
}

/** Every process of the machine that we can see. */
export async function readProcesses(): Promise<ProcessStat[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const stats = await Promise.all(pids.map((pid) => readProcess(Number(pid))));
  return stats.filter((stat) => stat !== null);
}

/** True while exactly this process runs. */
export async function isAlive(identity: ProcessIdentity): Promise<boolean> {
  return (await readProcess(identity.pid))?.identity.startTime === identity.startTime;
}

/** SIGKILL to a process, or to the whole group it leads. A process that is gone already is no error. */
export function killNow(pid: number, group: boolean): void {
  try {
    process.kill(group ? -pid : pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Repeats `attempt` until it answers true; false when it has not for so many milliseconds. */
export async function within(milliseconds: number, attempt: () => Promise<boolean>): Promise<boolean> {
  const deadline = performance.now() + milliseconds;
  for (let pause = 1; !(await attempt()); pause = Math.min(pause * 2, 50)) {
    if (performance.now() > deadline) return false;
    await sleep(pause);
  }
  return true;
}

/**
 * Throws `problem` after a minute. Killing takes effect at once, but a large memory takes time to give back, and the last
 * process of a sandbox waits until what it wrote is on the disk; its memory limit bounds how much that is.
 */
export async function until(attempt: () => Promise<boolean>, problem: string): Promise<void> {
  if (!(await within(60_000, attempt))) throw new Error(problem);
}
