import { mkdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { SandboxLimits } from "./driver.ts";
import { killNow, until } from "./processes.ts";

type Controller = "memory" | "cpu" | "pids";
type Hierarchy = { version: 1 | 2; root: string; controllers: Controller[] };

/** Control groups for sandboxes: one per hierarchy of this machine that we may write. */
export type Cgroups = {
  limited: { memory: boolean; cpus: boolean; processes: boolean };
  /** Why a hierarchy that exists cannot be used, in the words of the system. */
  failures: readonly string[];
  /** Paths of the groups a sandbox of this name has; nothing is created. */
  paths(name: string): string[];
  /** Creates the groups with their limits. A process joins by writing its number into `cgroup.procs` of each. */
  create(name: string, limits: SandboxLimits): Promise<void>;
};

const controllers: readonly Controller[] = ["memory", "cpu", "pids"];
// Our own processes around and inside a sandbox (supervisor, both halves of bubblewrap, helpers of a moment).
const ownProcesses = 5;

/**
 * Finds out by trying what can be limited here. Groups go to the top of each hierarchy, not below our own group: a service
 * manager that restarts the control plane kills its group and everything below, and sandboxes are to survive that.
 */
export async function createCgroups(probeName: string): Promise<Cgroups> {
  const found = await findHierarchies();
  const usable: Hierarchy[] = [];
  const failures: string[] = [];
  for (const hierarchy of found) {
    const failure = await tryOut(hierarchy, probeName);
    if (failure === null) usable.push(hierarchy);
    else failures.push(`${hierarchy.controllers.join(", ")}: ${failure}`);
  }
  const has = (controller: Controller) => usable.some((hierarchy) => hierarchy.controllers.includes(controller));
  return {
    limited: { memory: has("memory"), cpus: has("cpu"), processes: has("pids") },
    failures,
    paths: (name) => usable.map((hierarchy) => join(hierarchy.root, name)),
    create: async (name, limits) => {
      for (const hierarchy of usable) await createGroup(hierarchy, join(hierarchy.root, name), limits);
    },
  };
}

/** Changes the processor limit of groups that exist; those without one, and those that are gone, are passed over. */
export async function setCpus(paths: readonly string[], cpus: number): Promise<void> {
  const quota = quotaOf(cpus);
  const values = { "cpu.cfs_quota_us": quota ?? "-1", "cpu.max": `${quota ?? "max"} ${period}` };
  for (const path of paths) {
    for (const [file, value] of Object.entries(values)) {
      await writeFile(join(path, file), String(value), { flag: "r+" }).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT" && error.code !== "ENODEV") throw error;
      });
    }
  }
}

/** Kills whatever is in the groups and removes them; groups that are gone already are no error. */
export async function removeCgroups(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    await until(() => emptyAndRemove(path), `the control group ${path} cannot be removed`);
  }
}

async function emptyAndRemove(path: string): Promise<boolean> {
  try {
    const members = await readFile(join(path, "cgroup.procs"), "utf8");
    for (const pid of members.split("\n").filter(Boolean)) killNow(Number(pid), false);
    await rmdir(path);
    return true;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENODEV") return true;
    if (code === "EBUSY" || code === "ENOTEMPTY") return false;
    throw error;
  }
}

async function findHierarchies(): Promise<Hierarchy[]> {
  const mounts = (await readFile("/proc/self/mountinfo", "utf8")).split("\n").map((line) => line.split(" "));
  const hierarchies: Hierarchy[] = [];
  const taken = new Set<Controller>();
  const add = (version: 1 | 2, root: string | undefined, offered: readonly string[]) => {
    const fresh = controllers.filter((controller) => offered.includes(controller) && !taken.has(controller));
    for (const controller of fresh) taken.add(controller);
    if (root && fresh.length > 0) hierarchies.push({ version, root, controllers: fresh });
  };
  for (const fields of mounts) {
    const [type, , options] = fields.slice(fields.indexOf("-") + 1);
    if (type === "cgroup") add(1, fields[4], options?.split(",") ?? []);
    if (type === "cgroup2" && fields[4]) {
      add(2, fields[4], (await readFile(join(fields[4], "cgroup.controllers"), "utf8")).trim().split(" "));
    }
  }
  return hierarchies;
}

async function tryOut(hierarchy: Hierarchy, name: string): Promise<string | null> {
  const path = join(hierarchy.root, name);
  try {
    if (hierarchy.version === 2) await delegate(hierarchy);
    await createGroup(hierarchy, path, { memoryBytes: 64 << 20, cpus: 1, processes: 16 });
    await rmdir(path);
    return null;
  } catch (error) {
    await rmdir(path).catch((cleanup: NodeJS.ErrnoException) => {
      if (cleanup.code !== "ENOENT") throw cleanup;
    });
    return (error as NodeJS.ErrnoException).code ?? String(error);
  }
}

// In version 2 a group's children have only the controllers that the group passes on.
async function delegate({ root, controllers }: Hierarchy): Promise<void> {
  const passedOn = (await readFile(join(root, "cgroup.subtree_control"), "utf8")).trim().split(" ");
  const missing = controllers.filter((controller) => !passedOn.includes(controller));
  if (missing.length === 0) return;
  await writeFile(join(root, "cgroup.subtree_control"), missing.map((controller) => `+${controller}`).join(" "));
}

async function createGroup(hierarchy: Hierarchy, path: string, limits: SandboxLimits): Promise<void> {
  await mkdir(path);
  for (const setting of settings(hierarchy, limits)) {
    await writeFile(join(path, setting.file), setting.value).catch((error: NodeJS.ErrnoException) => {
      // Machines without swap accounting lack the swap files, and then there is nothing to limit; older ones grant no burst.
      if (!(setting.optional && (error.code === "ENOENT" || error.code === "EACCES"))) throw error;
    });
  }
}

/** Microseconds. What one period leaves unused the next may use as well (where Linux is 5.14 or newer): a tool that is busy for a moment is not held up. */
const period = 200_000;

/** Undefined for no limit. The kernel refuses a quota below one millisecond. */
function quotaOf(cpus: number): number | undefined {
  return Number.isFinite(cpus) ? Math.max(1_000, Math.floor(cpus * period)) : undefined;
}

function settings({ version, controllers }: Hierarchy, limits: SandboxLimits) {
  const memory = String(Math.floor(limits.memoryBytes));
  const processes = String(Math.floor(limits.processes) + ownProcesses);
  const quota = quotaOf(limits.cpus) ?? period;
  const all: { controller: Controller; version: 1 | 2; file: string; value: string; optional?: true }[] = [
    { controller: "memory", version: 1, file: "memory.limit_in_bytes", value: memory },
    { controller: "memory", version: 1, file: "memory.memsw.limit_in_bytes", value: memory, optional: true },
    { controller: "memory", version: 2, file: "memory.max", value: memory },
    { controller: "memory", version: 2, file: "memory.swap.max", value: "0", optional: true },
    { controller: "cpu", version: 1, file: "cpu.cfs_period_us", value: String(period) },
    { controller: "cpu", version: 1, file: "cpu.cfs_quota_us", value: String(quota) },
    { controller: "cpu", version: 1, file: "cpu.cfs_burst_us", value: String(quota), optional: true },
    { controller: "cpu", version: 2, file: "cpu.max", value: `${quota} ${period}` },
    { controller: "cpu", version: 2, file: "cpu.max.burst", value: String(quota), optional: true },
    { controller: "pids", version: 1, file: "pids.max", value: processes },
    { controller: "pids", version: 2, file: "pids.max", value: processes },
  ];
  return all.filter((setting) => setting.version === version && controllers.includes(setting.controller));
}
