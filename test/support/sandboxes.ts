/** What an installation's sandboxes are made of, as the host sees it: for tests that kill parts of them or look for what is left. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createBubblewrapDriver } from "../../server/sandbox/bubblewrap.ts";
import { readProcesses } from "../../server/sandbox/processes.ts";
import type { Installation } from "./carrel.ts";

export type SandboxProcess = { pid: number; command: string };

const silent = { info: () => undefined, warn: () => undefined };

/** Where the host finds the files that the sandbox of a session sees, by the path they have inside. Only while it runs. */
export async function rootOf(installation: Installation, sessionId: string): Promise<string> {
  return `/proc/${await processOf(installation, sessionId, "runner")}/root`;
}

/** The agent's own record of the conversations of a session, as far as it is written. Only while it runs. */
export async function recordOf(installation: Installation, sessionId: string): Promise<string> {
  const projects = join(await rootOf(installation, sessionId), "home/agent/.claude/projects");
  const files = readdirSync(projects, { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(".jsonl"));
  return files.map((path) => readFileSync(join(projects, path), "utf8")).join("");
}

/** Every process below the first process of a session's sandbox, that one included. */
export async function processesOf(installation: Installation, sessionId: string): Promise<SandboxProcess[]> {
  const row = await installation.database.db.selectFrom("session").select("handle").where("id", "=", sessionId).executeTakeFirstOrThrow();
  return row.handle?.init ? descendants(row.handle.init.pid) : [];
}

/** The process of a session's sandbox that runs this program: `runner.cjs`, `claude`. */
export async function processOf(installation: Installation, sessionId: string, program: "runner" | "claude"): Promise<number> {
  const isIt = (words: readonly string[]): boolean =>
    program === "claude" ? words[0] === "/opt/carrel/claude" : words[0] === "/opt/carrel/node" && words.includes("/opt/carrel/runner.cjs");
  // A runner may have attached a moment before its sandbox is written down.
  for (let tries = 0; tries < 40; tries += 1) {
    const found = (await processesOf(installation, sessionId)).find(({ command }) => isIt(command.split("\0")));
    if (found) return found.pid;
    await sleep(50);
  }
  throw new Error(`no ${program} in the sandbox of ${sessionId}`);
}

async function descendants(root: number): Promise<SandboxProcess[]> {
  const all = await readProcesses();
  const family = new Set([root]);
  for (let size = 0; size !== family.size; ) {
    size = family.size;
    for (const { identity, parent } of all) if (family.has(parent)) family.add(identity.pid);
  }
  return [...family].map((pid) => ({ pid, command: commandOf(pid) }));
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return "";
  }
}

/** Whether a process with this number runs and is no zombie. */
export function isRunning(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

/** All that exists because of an installation's sandboxes, by kind. */
export function leftovers(installation: Installation) {
  const { data, run } = placesOf(installation);
  return {
    records: list(join(data, "driver", "sandboxes")),
    workspaces: list(join(data, "sandboxes")),
    boxes: list(run).filter((name) => name.startsWith("box_")),
    processes: list("/proc")
      .filter((name) => /^\d+$/.test(name))
      .filter((pid) => commandOf(Number(pid)).includes(join(data, "driver")) && isRunning(Number(pid))),
    cgroups: cgroupsBelow("/sys/fs/cgroup", groupPrefix(data)),
    mounts: readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .filter((line) => line.includes(installation.directory)),
  };
}

/** As the driver names them: by a digest of where it keeps its records. */
function groupPrefix(data: string): string {
  return `carrel-${createHash("sha256").update(join(data, "driver")).digest("hex").slice(0, 8)}`;
}

function cgroupsBelow(directory: string, prefix: string, depth = 3): string[] {
  if (depth === 0) return [];
  return list(directory).flatMap((name) => {
    const path = join(directory, name);
    if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [];
    return [...(name.startsWith(prefix) ? [path] : []), ...cgroupsBelow(path, prefix, depth - 1)];
  });
}

export function placesOf(installation: Installation): { data: string; run: string } {
  return { data: installation.environment["CARREL_DATA_DIR"]!, run: installation.environment["CARREL_RUNTIME_DIR"]! };
}

/** Ends what a failed test left running. Only after the installation's servers are gone. */
export async function destroySandboxes(installation: Installation): Promise<void> {
  const driver = await createBubblewrapDriver({ stateDirectory: join(placesOf(installation).data, "driver"), log: silent });
  for (const handle of await driver.list()) await driver.destroy(handle);
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/** The first processes of sandboxes that exist, from the moment bubblewrap has made them, sessions or none. */
export function firstProcesses(installation: Installation): number[] {
  const root = join(placesOf(installation).data, "driver", "sandboxes");
  return list(root).flatMap((id) => {
    try {
      const pid = /"child-pid": (\d+)\s*[,}]/.exec(readFileSync(join(root, id, "status"), "utf8"))?.[1];
      return pid ? [Number(pid)] : [];
    } catch {
      // Not there yet.
      return [];
    }
  });
}

/** Sends a signal to a process and all below it. */
export async function signalFamily(root: number, signal: NodeJS.Signals): Promise<void> {
  for (const { pid } of await descendants(root)) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
}
