/**
 * What the machine knows about a Postgres of one data directory: its pid file and its processes in /proc.
 *
 * Every process of ours carries the cluster's name, a digest of the data directory: the postmaster in its arguments, the
 * others in the title Postgres gives them. So processes are recognised without trusting a pid, which a reboot or a kill -9
 * may have handed to somebody else, and without the right to look into other users' processes.
 */
import { createHash } from "node:crypto";
import { copyFileSync, readdirSync, readFileSync, realpathSync, rmSync, statSync, truncateSync } from "node:fs";
import path from "node:path";

/** `carrel-` and a digest of the directory's real path. */
export function clusterName(dataDirectory: string): string {
  const digest = createHash("sha256").update(realpathSync(dataDirectory)).digest("hex");
  return `carrel-${digest.slice(0, 12)}`;
}

/** The arguments (program first) of a live postmaster of this cluster that has taken the directory; undefined when there is none. */
export function findPostmaster(dataDirectory: string): { pid: number; command: string[] } | undefined {
  const pid = readPidFile(dataDirectory);
  if (pid === undefined) return undefined;
  const command = readCommand(pid);
  return command.includes(`cluster_name=${clusterName(dataDirectory)}`) ? { pid, command } : undefined;
}

/** Processes of this cluster, postmaster included; without a postmaster they are the orphans of one that was killed. */
export function findProcesses(dataDirectory: string): number[] {
  const name = clusterName(dataDirectory);
  const owner = statSync(dataDirectory).uid;
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => pid > 0 && ownerOf(pid) === owner)
    .filter((pid) => {
      const command = readCommand(pid);
      return command.includes(`cluster_name=${name}`) || command[0]?.startsWith(`postgres: ${name}: `) === true;
    });
}

/**
 * Removes a pid file whose pid now belongs to a stranger or a zombie: Postgres only asks whether the pid exists and would
 * refuse to start for ever. Only done when no process of the cluster is left; otherwise Postgres' own check decides.
 */
export function removeStalePidFile(dataDirectory: string, socketFile: string): void {
  if (readPidFile(dataDirectory) === undefined || findProcesses(dataDirectory).length > 0) return;
  rmSync(path.join(dataDirectory, "postmaster.pid"), { force: true });
  rmSync(`${socketFile}.lock`, { force: true });
}

/** Sends a signal to each pid that still exists. */
export function signalAll(pids: number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
}

/** Keeps the log under `limit` bytes and one older copy. Postgres appends, so cutting the file under it is safe. */
export function trimLog(file: string, limit = 4 * 1024 * 1024): void {
  if ((statSync(file, { throwIfNoEntry: false })?.size ?? 0) <= limit) return;
  copyFileSync(file, `${file}.1`);
  truncateSync(file);
}

function readPidFile(dataDirectory: string): number | undefined {
  const [line = ""] = readText(path.join(dataDirectory, "postmaster.pid")).split("\n");
  return /^[1-9]\d*$/.test(line) ? Number(line) : undefined;
}

function readCommand(pid: number): string[] {
  return readText(`/proc/${pid}/cmdline`).split("\0");
}

function ownerOf(pid: number): number | undefined {
  return statSync(`/proc/${pid}`, { throwIfNoEntry: false })?.uid;
}

/** Empty when the file, or the process it describes, is gone: both may happen at any moment. */
function readText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return "";
    throw error;
  }
}
