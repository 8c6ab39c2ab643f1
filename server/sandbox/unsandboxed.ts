import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, open, readFile, realpath } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { checkSpec, isWithin, type SandboxDriver, type SandboxHandle, type SandboxLog, type SandboxSpec } from "./driver.ts";
import { createLifecycle } from "./lifecycle.ts";
import { isAlive, killNow, readBootId, readProcesses } from "./processes.ts";
import { createRecords, type Records, readIfThere } from "./records.ts";

const warning =
  "CARREL_SANDBOX=none: sessions run WITHOUT ANY SANDBOX, free to use all files and networks of this machine; for development only";

// In the environment of everything a session starts, so that what left its process group is still found.
const mark = "CARREL_UNSANDBOXED_DIRECTORY";

// The status line is written here because no bubblewrap is there to write it. Arguments: DIRECTORY COMMAND...
const script = `
set -eu
directory=$1
shift
read -r identity < /proc/self/stat
printf '%s\\n' "$identity" > "$directory/supervisor"
exec < <(exec cat)
code=0
"$@" || code=$?
printf '{ "exit-code": %d }\\n' "$code" > "$directory/status"
`;

/** Plain processes in place of sandboxes, for developing Carrel where no sandbox works. It protects nothing. */
export async function createUnsandboxedDriver(options: { stateDirectory: string; log: SandboxLog }): Promise<SandboxDriver> {
  await mkdir(options.stateDirectory, { recursive: true, mode: 0o700 });
  const records = await createRecords("none", await realpath(options.stateDirectory));
  const lifecycle = await createLifecycle({ records, killStrays: killMarked, release: async () => {} });
  const bootId = await readBootId();
  options.log.warn({ driver: "none" }, warning);
  return {
    ...lifecycle,
    name: "none",
    enforced: { memory: false, cpus: false, processes: false, disk: false, reason: warning },
    start: async (spec) => {
      checkSpec(spec);
      const directory = await records.claim(spec.id);
      const owner = { driver: "none", id: spec.id, labels: spec.labels };
      const handle = { ...owner, bootId, supervisor: null, init: null, directory, cgroups: [], uid: null };
      try {
        await records.write(handle);
        const child = await launch(spec, directory);
        const started = await awaitSupervisor(records, spec, child);
        lifecycle.adopt(started, child);
        return started;
      } catch (error) {
        await lifecycle.destroy(handle);
        throw error;
      }
    },
  };
}

async function launch(spec: SandboxSpec, directory: string): Promise<ChildProcess> {
  const onHost = hostPaths(spec);
  const log = await open(spec.logPath, "a", 0o600);
  try {
    const child = spawn("bash", ["--norc", "-p", "-c", script, "carrel-unsandboxed", directory, ...spec.command.map(onHost)], {
      cwd: onHost(spec.cwd),
      env: { ...mapValues(spec.environment, (value) => value.split(":").map(onHost).join(":")), [mark]: directory },
      detached: true,
      stdio: ["pipe", log.fd, log.fd],
    });
    child.stdin?.on("error", () => child.stdin?.destroy());
    child.stdin?.end(spec.stdin);
    return child;
  } finally {
    await log.close();
  }
}

async function awaitSupervisor(records: Records, spec: SandboxSpec, child: ChildProcess): Promise<SandboxHandle> {
  let end: string | null = null;
  child.once("error", (error) => (end = error.message));
  child.once("exit", (code, signal) => (end = `it ended with ${signal ?? code}`));
  for (;;) {
    const known: string | null = end;
    const handle = await records.read(spec.id);
    if (handle?.supervisor) return handle;
    if (known !== null) {
      const log = (await readIfThere(spec.logPath)) ?? "";
      throw new Error(`process ${spec.id} did not start: ${known}\n${log.slice(-2_000)}`.trimEnd());
    }
    await sleep(1);
  }
}

// Nothing is mounted here, so a path the specification promises in the sandbox becomes the source it stands for.
function hostPaths(spec: SandboxSpec): (text: string) => string {
  const mounts = [...spec.readOnly, ...spec.writable].sort((one, other) => other.target.length - one.target.length);
  return (text) => {
    const mount = mounts.find(({ target }) => isWithin(text, target));
    return mount ? mount.source + text.slice(mount.target.length) : text;
  };
}

function mapValues(values: Readonly<Record<string, string>>, change: (value: string) => string): Record<string, string> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, change(value)]));
}

async function killMarked(handle: SandboxHandle): Promise<boolean> {
  let found = 0;
  for (const { identity } of await readProcesses()) {
    const environment = await readFile(`/proc/${identity.pid}/environ`, "utf8").catch((error: NodeJS.ErrnoException) => {
      // Processes of others, and processes that have just ended, are not ours to look at.
      if (error.code === "EACCES" || error.code === "ENOENT" || error.code === "ESRCH" || error.code === "EPERM") return "";
      throw error;
    });
    if (!environment.split("\0").includes(`${mark}=${handle.directory}`) || !(await isAlive(identity))) continue;
    found += 1;
    killNow(identity.pid, false);
  }
  return found === 0;
}
