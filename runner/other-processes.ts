import { readdirSync, readFileSync } from "node:fs";

/** Kills everything in the sandbox but this process and those it descends from, and answers with the names. */
export function stopOthers(): string[] {
  const names = new Set<string>();
  // Again, because what is being killed may have started something meanwhile.
  for (let rounds = 0; rounds < 20; rounds += 1) {
    const others = listOthers();
    if (others.length === 0) break;
    for (const { pid, name } of others) {
      names.add(name);
      tryKill(pid);
    }
  }
  return [...names];
}

type Other = { pid: number; name: string };

function listOthers(): Other[] {
  const all = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .map(statusOf)
    .filter((one) => one !== undefined);
  const parents = new Map(all.map(({ pid, parent }) => [pid, parent]));
  const spared = new Set([1]);
  for (let pid: number | undefined = process.pid; pid; pid = parents.get(pid)) spared.add(pid);
  return all.filter(({ pid, dead }) => !dead && !spared.has(pid));
}

function statusOf(pid: number): (Other & { parent: number; dead: boolean }) | undefined {
  try {
    const [, name, state, parent] = /^\d+ \((.*)\) (\S) (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, "utf8")) ?? [];
    return { pid, name: name ?? "", parent: Number(parent), dead: state === "Z" || state === "X" };
  } catch {
    // Gone between the list and the look.
    return undefined;
  }
}

function tryKill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
