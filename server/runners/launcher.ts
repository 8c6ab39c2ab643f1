import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { SandboxDriver, SandboxHandle, SandboxLimits } from "../sandbox/driver.ts";
import type { RunnerListener } from "./listener.ts";

/** Host paths of the programs that are shown, read-only, to every sandbox. */
export type SandboxPrograms = { node: string; runner: string; claude: string };

export type LauncherOptions = {
  driver: SandboxDriver;
  listener: RunnerListener;
  /** Names this installation, so that the sandboxes of another on the same machine are left alone. */
  installation: string;
  /** Survives a reboot: workspaces. */
  dataDirectory: string;
  /** Memory-backed: sockets, logs, and the agent's own record of the conversation, which must never reach a disk in clear. */
  runtimeDirectory: string;
  programs: SandboxPrograms;
  limits: SandboxLimits;
};

export type Launcher = {
  /** Starts the sandbox of one epoch of a session. The attach token goes in by standard input. */
  launch(sessionId: string, epoch: number, attachToken: string): Promise<SandboxHandle>;
  /** Ends everything of a handle; the session's files stay. */
  destroy(handle: SandboxHandle): Promise<void>;
  isRunning(handle: SandboxHandle): Promise<boolean>;
  exitCode(handle: SandboxHandle): Promise<number | null>;
  /** Resolves when the sandbox has exited. */
  wait(handle: SandboxHandle, signal: AbortSignal): Promise<void>;
  /** Opens the socket of a sandbox that an earlier control plane started. */
  adopt(sessionId: string): Promise<void>;
  /** Removes socket, workspace, home and log of a session that has ended. */
  removeFiles(sessionId: string): Promise<void>;
  /** Sandboxes of this installation that are alive, by session. */
  list(): Promise<{ sessionId: string; handle: SandboxHandle }[]>;
  logPath(sessionId: string): string;
};

/** Where things are inside every sandbox. */
export const inside = {
  workspace: "/workspace",
  home: "/home/agent",
  channel: "/run/carrel/channel",
  state: "/run/carrel/state",
  node: "/opt/carrel/node",
  runner: "/opt/carrel/runner.mjs",
  claude: "/opt/carrel/claude",
} as const;

export const socketName = "carrel.sock";

export function createLauncher(options: LauncherOptions): Launcher {
  const { driver, listener } = options;
  const runtime = (sessionId: string) => join(options.runtimeDirectory, sessionId);
  const workspace = (sessionId: string) => join(options.dataDirectory, "sandboxes", sessionId);
  const logPath = (sessionId: string) => join(runtime(sessionId), "sandbox.log");
  const listen = (sessionId: string) => listener.open(sessionId, join(runtime(sessionId), "channel", socketName));

  return {
    logPath,
    adopt: listen,
    async launch(sessionId, epoch, attachToken) {
      const mounts = writableMounts(runtime(sessionId), workspace(sessionId));
      await mkdir(join(runtime(sessionId), "channel"), { recursive: true, mode: 0o755 });
      for (const mount of mounts) await mkdir(mount.source, { recursive: true, mode: 0o700 });
      await listen(sessionId);
      return driver.start({
        id: `${sessionId.replace("_", "-")}-${epoch}`,
        labels: { installation: options.installation, session: sessionId, epoch: String(epoch) },
        command: [inside.node, inside.runner],
        cwd: inside.workspace,
        environment: { HOME: inside.home, PATH: "/usr/local/bin:/usr/bin:/bin", LANG: "C.UTF-8", TERM: "dumb" },
        readOnly: readOnlyMounts(options.programs, join(runtime(sessionId), "channel")),
        writable: mounts,
        stdin: new TextEncoder().encode(JSON.stringify({ attachToken, socket: join(inside.channel, socketName), state: inside.state, claude: inside.claude })),
        logPath: logPath(sessionId),
        limits: options.limits,
      });
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
    async removeFiles(sessionId) {
      await listener.close(sessionId);
      await rm(runtime(sessionId), { recursive: true, force: true });
      await rm(workspace(sessionId), { recursive: true, force: true });
    },
    async list() {
      const handles = await driver.list();
      return handles
        .filter((handle) => handle.labels["installation"] === options.installation)
        .map((handle) => ({ sessionId: handle.labels["session"] ?? "", handle }));
    },
  };
}

function writableMounts(runtime: string, workspace: string) {
  return [
    { source: join(workspace, "workspace"), target: inside.workspace },
    { source: join(runtime, "home"), target: inside.home },
    { source: join(runtime, "state"), target: inside.state },
  ];
}

function readOnlyMounts(programs: SandboxPrograms, channel: string) {
  return [
    { source: programs.node, target: inside.node },
    { source: programs.runner, target: inside.runner },
    { source: programs.claude, target: inside.claude },
    { source: channel, target: inside.channel },
  ];
}
