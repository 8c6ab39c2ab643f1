import { readdir, readFile } from "node:fs/promises";

export type Memory = { pss: number; rss: number };

/** Memory of processes in bytes; shared pages are counted by share in `pss`, wholly in `rss`. */
export async function memoryOf(pids: readonly number[]): Promise<Memory> {
  const each = await Promise.all(pids.map(memoryOfOne));
  return { pss: each.reduce((sum, { pss }) => sum + pss, 0), rss: each.reduce((sum, { rss }) => sum + rss, 0) };
}

async function memoryOfOne(pid: number): Promise<Memory> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, "utf8");
  const bytes = (field: string): number => Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(text)?.[1] ?? Number.NaN) * 1024;
  return { pss: bytes("Pss"), rss: bytes("Rss") };
}

export type SandboxProcess = { pid: number; name: string };

/** Processes of sandboxes over files below `directory`, and those that keep them: they have its files mounted. */
export async function findSandboxProcesses(directory: string): Promise<SandboxProcess[]> {
  // Mounts name their files from the root of their own file system, so only the end of the path is sure to be in the table.
  const place = `/${directory.split("/").slice(-2).join("/")}/`;
  if (!/^\/carrel-bench-\d+-\w+\/\d+\/$/.test(place)) throw new Error(`${directory} is not the directory of one installation`);
  const found: SandboxProcess[] = [];
  for (const entry of await readdir("/proc")) {
    const pid = Number(entry);
    if (!Number.isInteger(pid)) continue;
    const mounts = await read(`/proc/${entry}/mountinfo`);
    const sees = mounts.split("\n").some((line) => line.split(" ")[3]?.includes(place));
    if (sees) found.push({ pid, name: (await read(`/proc/${entry}/comm`)).trim() });
  }
  return found;
}

/** Empty for a process that is gone, or is somebody else's. */
async function read(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch {
    return "";
  }
}
