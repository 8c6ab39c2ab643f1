import { execFile } from "node:child_process";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { SandboxDriver, SandboxHandle, SandboxLimits } from "../sandbox/driver.ts";
import type { RunnerListener } from "./listener.ts";
import { lastOutput } from "./output.ts";

/** Host paths of the programs that are shown, read-only, to every sandbox. */
export type SandboxPrograms = { node: string; runner: string; claude: string };

export type LauncherOptions = {
  driver: SandboxDriver;
  listener: RunnerListener;
  /** Names this installation, so that the sandboxes of another on the same machine are left alone. */
  installation: string;
  /** Survives a reboot: workspaces. */
  dataDirectory: string;
  /** Memory-backed: sockets, logs, spools, and the agent's own record of the conversation, which must never reach a disk in clear. */
  runtimeDirectory: string;
  programs: SandboxPrograms;
  limits: SandboxLimits;
  /** The most that may lie in workspace and home of a box, for those made from now on. */
  space: BoxSpace;
  /** Told when the processor limit of a sandbox cannot be changed. */
  onCpusFailed(error: Error): void;
};

/** A directory that a sandbox writes to, as the host sees it, and the most that may lie in it. */
export type BoxDirectory = { name: "workspace" | "home"; path: string; limitBytes: number };

export type BoxSpace = { workspaceBytes: number; homeBytes: number };

/** What a runner is told at its start, by standard input. The rest of its orders it gets when it attaches. */
export type Boot = {
  /** Worth one Attach. */
  attachToken: string;
  /** What the agent shows the model gateway. */
  phantomToken: string;
  /** The conversation to take up again; empty starts a new one. */
  resume: string;
  /** Leaves the agent unstarted until the snapshot is back. */
  restore: boolean;
  model: string;
  planMode: boolean;
};

export type Launcher = {
  /** Starts a sandbox over the files of a box. `run` tells the sandboxes of one box apart. */
  launch(box: string, run: number, boot: Boot): Promise<SandboxHandle>;
  /** Ends everything of a handle; the box's files stay. */
  destroy(handle: SandboxHandle): Promise<void>;
  isRunning(handle: SandboxHandle): Promise<boolean>;
  exitCode(handle: SandboxHandle): Promise<number | null>;
  /** Resolves when the sandbox has exited. */
  wait(handle: SandboxHandle, signal: AbortSignal): Promise<void>;
  /** Lets a sandbox use every processor for the next seconds: an agent that starts keeps more than one busy, and people wait for it. */
  hurry(handle: SandboxHandle): Promise<void>;
  /** Takes a sandbox back that an earlier control plane started: opens the socket of its box. */
  adopt(box: string, handle: SandboxHandle): Promise<void>;
  /** Removes socket, workspace, home and log of a box. */
  removeFiles(box: string): Promise<void>;
  /** Boxes that have files here. */
  listFiles(): Promise<string[]>;
  /** Sandboxes of this installation that are alive. */
  list(): Promise<{ box: string; run: number; handle: SandboxHandle }[]>;
  /** The last lines that the sandboxes of a box printed; untrusted. */
  lastOutput(box: string): Promise<string>;
  /** What the last runner of a box reported and nobody acknowledged. */
  spoolPath(box: string): string;
  directoriesOf(box: string): BoxDirectory[];
};

/** Where things are inside every sandbox. */
export const inside = {
  workspace: "/workspace",
  home: "/home/agent",
  channel: "/run/carrel/channel",
  spool: "/run/carrel/spool",
  node: "/opt/carrel/node",
  runner: "/opt/carrel/runner.cjs",
  claude: "/opt/carrel/claude",
} as const;

/** Each session keeps a runner in memory, most of the time idle: room for little garbage, and one pool of memory for all its threads. */
const runnerFlags = ["--max-semi-space-size=1"];
const runnerEnvironment = { MALLOC_ARENA_MAX: "1" };

const hurryMs = 5_000;

export const socketName = "carrel.sock";
const spoolName = "events";

export function createLauncher(options: LauncherOptions): Launcher {
  const { driver, listener } = options;
  const runtime = (box: string) => join(options.runtimeDirectory, box);
  const lasting = (box: string) => join(options.dataDirectory, "sandboxes", box);
  const spool = (box: string) => join(runtime(box), "spool");
  const directoriesOf = (box: string): BoxDirectory[] => [
    { name: "workspace", path: join(lasting(box), "workspace"), limitBytes: options.space.workspaceBytes },
    { name: "home", path: join(runtime(box), "home"), limitBytes: options.space.homeBytes },
  ];
  const listen = (box: string) => listener.open(box, join(runtime(box), "channel", socketName));

  const hostPlaces = [options.dataDirectory, options.runtimeDirectory, ...Object.values(options.programs)];
  const hurrying = new Map<string, NodeJS.Timeout>();
  const hurry = async (handle: SandboxHandle): Promise<void> => {
    clearTimeout(hurrying.get(handle.id));
    const calm = (): void => {
      hurrying.delete(handle.id);
      driver.setCpus(handle, options.limits.cpus).catch(options.onCpusFailed);
    };
    hurrying.set(handle.id, setTimeout(calm, hurryMs).unref());
    await driver.setCpus(handle, Number.POSITIVE_INFINITY).catch(options.onCpusFailed);
  };

  return {
    lastOutput: (box) => lastOutput(join(runtime(box), "sandbox.log"), hostPlaces),
    spoolPath: (box) => join(spool(box), spoolName),
    directoriesOf,
    hurry,
    async adopt(box, handle) {
      await driver.setCpus(handle, options.limits.cpus).catch(options.onCpusFailed);
      await listen(box);
    },
    async launch(box, run, boot) {
      const writable = [
        ...directoriesOf(box).map(({ name, path, limitBytes }) => ({ source: path, target: inside[name], limitBytes })),
        // Read from outside, and so a plain directory; what is in it counts as memory of the sandbox.
        { source: spool(box), target: inside.spool },
      ];
      await mkdir(join(runtime(box), "channel"), { recursive: true, mode: 0o755 });
      // Of a runner that is gone and has been heard; the agent of that time could write there too.
      await removeTree(spool(box));
      for (const mount of writable) await mkdir(mount.source, { recursive: true, mode: 0o700 });
      await listen(box);
      const handle = await driver.start({
        id: `${box.replace("_", "-")}-${run}`,
        labels: { installation: options.installation, box, run: String(run) },
        command: [inside.node, ...runnerFlags, inside.runner],
        cwd: inside.workspace,
        environment: { HOME: inside.home, PATH: "/usr/local/bin:/usr/bin:/bin", LANG: "C.UTF-8", TERM: "dumb", ...runnerEnvironment },
        readOnly: readOnlyMounts(options.programs, join(runtime(box), "channel")),
        writable,
        stdin: new TextEncoder().encode(
          JSON.stringify({
            ...boot,
            socket: join(inside.channel, socketName),
            spool: join(inside.spool, spoolName),
            cwd: inside.workspace,
            claude: inside.claude,
          }),
        ),
        logPath: join(runtime(box), "sandbox.log"),
        limits: options.limits,
      });
      await hurry(handle);
      return handle;
    },
    destroy: (handle) => driver.destroy(handle),
    isRunning: async (handle) => (await driver.inspect(handle)).state === "running",
    async exitCode(handle) {
      const status = await driver.inspect(handle);
      return status.state === "exited" ? status.exitCode : null;
    },
    async wait(handle, signal) {
      await driver.wait(handle, signal);
    },
    async removeFiles(box) {
      await listener.close(box);
      for (const directory of [runtime(box), lasting(box)]) await removeTree(directory);
    },
    async listFiles() {
      const found = await Promise.all([options.runtimeDirectory, join(options.dataDirectory, "sandboxes")].map(namesIn));
      return [...new Set(found.flat())].filter((name) => name.startsWith("box_"));
    },
    async list() {
      const handles = await driver.list();
      return handles
        .filter(({ labels }) => labels["installation"] === options.installation)
        .map((handle) => ({ box: handle.labels["box"] ?? "", run: Number(handle.labels["run"]), handle }));
    },
  };
}

/** The agent owned these files and may have closed directories to everybody. */
async function removeTree(directory: string): Promise<void> {
  try {
    await rm(directory, { recursive: true, force: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EACCES") throw error;
    // Does not follow links while it walks.
    await promisify(execFile)("chmod", ["-R", "u+rwX", "--", directory]);
    await rm(directory, { recursive: true, force: true });
  }
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

function readOnlyMounts(programs: SandboxPrograms, channel: string) {
  return [
    { source: programs.node, target: inside.node },
    { source: programs.runner, target: inside.runner },
    { source: programs.claude, target: inside.claude },
    { source: channel, target: inside.channel },
  ];
}
