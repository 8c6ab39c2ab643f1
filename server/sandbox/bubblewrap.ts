import { type ChildProcess, spawn } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { type FileHandle, mkdir, open, readFile, realpath, stat } from "node:fs/promises";
import { release } from "node:os";
import { isAbsolute, join } from "node:path";
import { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { type Cgroups, createCgroups } from "./cgroups.ts";
import {
  checkSpec,
  type SandboxDriver,
  type SandboxEnforcement,
  type SandboxHandle,
  type SandboxLog,
  type SandboxMount,
  type SandboxSpec,
} from "./driver.ts";
import { createImages, type Images } from "./images.ts";
import { bubblewrapOptions, descriptors, type SystemFiles, writeSystemFiles } from "./layout.ts";
import { createLifecycle } from "./lifecycle.ts";
import { killNow, readBootId, readProcess, readProcesses } from "./processes.ts";
import { createRecords, type Records, readIfThere, readStatus } from "./records.ts";
import { seccompArchitecture } from "./seccomp.ts";
import { prepareStage, stagedPath } from "./staging.ts";
import { createUidPool, defaultUidRange, type UidPool, type UidRange } from "./uids.ts";

export type BubblewrapOptions = {
  /** Private to this driver; made when missing. One control plane at a time uses it. */
  stateDirectory: string;
  /** Default: `bwrap` of the system path. */
  bwrapPath?: string;
  /** Users of the host that sandboxes run as when the control plane is root; default: a range nobody else uses. */
  uidRange?: UidRange;
  log: SandboxLog;
};

type Parts = {
  bwrapPath: string;
  launchScript: string;
  records: Records;
  cgroups: Cgroups;
  images: Images;
  /** Null when the control plane is an ordinary user: its sandboxes run as that user. */
  uids: UidPool | null;
  files: SystemFiles;
  bootId: string;
  groupPrefix: string;
};

const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const startTimeoutMs = 20_000;

/** Sandboxes of bubblewrap on this machine. Their processes belong to no one: they survive the end of this process. */
export async function createBubblewrapDriver(options: BubblewrapOptions): Promise<SandboxDriver> {
  const parts = await prepare(options);
  const lifecycle = await createLifecycle({
    records: parts.records,
    killStrays: killHalfStarted,
    release: async (handle) => {
      if (handle.uid !== null) await parts.uids?.release(handle.uid);
    },
  });
  const enforced = enforcement(parts);
  if (enforced.reason) options.log.warn({ driver: "bubblewrap", ...enforced }, "some sandbox limits are not enforced");
  return {
    ...lifecycle,
    name: "bubblewrap",
    enforced,
    start: async (spec) => {
      checkSpec(spec);
      // Bubblewrap would say so too, but only after it counts as started.
      for (const { source } of [...spec.readOnly, ...spec.writable]) await stat(source);
      const directory = await parts.records.claim(spec.id);
      let handle = emptyHandle(parts, spec, directory);
      try {
        handle = { ...handle, uid: (await parts.uids?.reserve(spec.id)) ?? null };
        await parts.records.write(handle);
        const { child, init } = await launch(parts, spec, handle);
        await recordInit(parts, directory, child, init);
        const started = (await parts.records.read(spec.id)) ?? handle;
        lifecycle.adopt(started, child);
        return started;
      } catch (error) {
        await lifecycle.destroy(handle);
        throw error;
      }
    },
  };
}

async function prepare(options: BubblewrapOptions): Promise<Parts> {
  await mkdir(options.stateDirectory, { recursive: true, mode: 0o700 });
  const stateDirectory = await realpath(options.stateDirectory);
  const records = await createRecords("bubblewrap", stateDirectory);
  // Other installations on this machine share the control groups' namespace.
  const groupPrefix = `carrel-${createHash("sha256").update(stateDirectory).digest("hex").slice(0, 8)}`;
  const isRoot = process.geteuid?.() === 0;
  return {
    bwrapPath: options.bwrapPath ?? "bwrap",
    launchScript: await readFile(new URL("launch.sh", import.meta.url), "utf8"),
    records,
    groupPrefix,
    cgroups: await createCgroups(`${groupPrefix}-probe-${randomUUID()}`),
    images: await createImages(stateDirectory, isRoot),
    uids: isRoot ? await createUidPool(join(stateDirectory, "uids"), options.uidRange ?? (await defaultUidRange()), records.exists) : null,
    files: await writeSystemFiles(stateDirectory, seccompArchitecture(process.arch)),
    bootId: await readBootId(),
  };
}

function enforcement({ cgroups, images }: Parts): SandboxEnforcement {
  const limits = { ...cgroups.limited, processes: cgroups.limited.processes || countsPerNamespace() };
  const missing = Object.entries(limits).flatMap(([name, enforced]) => (enforced ? [] : [name]));
  const cause = cgroups.failures.length > 0 ? ` (${cgroups.failures.join("; ")})` : "";
  const reasons = [
    ...(missing.length > 0 ? [`no writable control group to limit ${missing.join(", ")} with${cause}`] : []),
    ...(images.failure === null ? [] : [`disk space is measured, not limited (${images.failure})`]),
  ];
  return { ...limits, disk: images.failure === null, ...(reasons.length > 0 ? { reason: reasons.join("; ") } : {}) };
}

// Since Linux 5.14 a process limit counts the processes of one user namespace, so that it can stand in for a control
// group; before, it counted all processes of the user.
function countsPerNamespace(): boolean {
  const [major = 0, minor = 0] = release().split(".").map(Number);
  return major > 5 || (major === 5 && minor >= 14);
}

function emptyHandle(parts: Parts, spec: SandboxSpec, directory: string): SandboxHandle {
  return {
    driver: "bubblewrap",
    id: spec.id,
    labels: spec.labels,
    bootId: parts.bootId,
    supervisor: null,
    init: null,
    directory,
    cgroups: parts.cgroups.paths(`${parts.groupPrefix}-${spec.id}`),
    uid: null,
  };
}

async function launch(parts: Parts, spec: SandboxSpec, handle: SandboxHandle): Promise<{ child: ChildProcess; init: number }> {
  const [options] = await Promise.all([
    optionsFor(parts, spec, handle),
    parts.cgroups.create(`${parts.groupPrefix}-${spec.id}`, spec.limits),
  ]);
  const opened: FileHandle[] = [];
  const openFile = async (path: string, flags: string) => {
    const file = await open(path, flags, 0o600);
    opened.push(file);
    return file.fd;
  };
  try {
    const log = await openFile(spec.logPath, "a");
    const status = await openFile(join(handle.directory, "status"), "a");
    const filter = await openFile(parts.files.filter, "r");
    const [program = "", ...rest] = supervisorCommand(parts, spec, handle);
    const child = spawn(program, rest, {
      cwd: "/",
      env: { PATH: systemPath },
      // A session of its own: no signal meant for the control plane's terminal or group arrives there.
      detached: true,
      stdio: ["pipe", log, log, status, "pipe", filter],
    });
    feed(child, spec, options);
    return { child, init: await firstProcess(child, handle.directory, spec) };
  } finally {
    await Promise.all(opened.map((file) => file.close()));
  }
}

async function optionsFor(parts: Parts, spec: SandboxSpec, handle: SandboxHandle): Promise<string[]> {
  const sources = new Map<SandboxMount, string>();
  if (handle.uid === null) return bubblewrapOptions(spec, parts.files, parts.files.directory, sources);
  const named = [
    ...spec.readOnly.map((mount, index) => ({ mount, name: `read-only-${index}` })),
    ...spec.writable.map((mount, index) => ({ mount, name: `writable-${index}` })),
  ];
  const staged = await Promise.all(
    named.map(async ({ mount, name }) => ({ name, source: mount.source, image: await parts.images.imageFor(mount) })),
  );
  await prepareStage(handle.directory, [
    { name: "system", source: parts.files.directory },
    ...(isAbsolute(parts.bwrapPath) ? [{ name: "bwrap", source: parts.bwrapPath }] : []),
    ...staged,
  ]);
  for (const { mount, name } of named) sources.set(mount, stagedPath(name));
  return bubblewrapOptions(spec, parts.files, stagedPath("system"), sources);
}

function supervisorCommand(parts: Parts, spec: SandboxSpec, handle: SandboxHandle): string[] {
  const uid = handle.uid === null ? "" : String(handle.uid);
  const bwrap = uid && isAbsolute(parts.bwrapPath) ? stagedPath("bwrap") : parts.bwrapPath;
  const byRlimit = !parts.cgroups.limited.processes && countsPerNamespace();
  const limited = byRlimit ? ["/usr/bin/prlimit", `--nproc=${Math.floor(spec.limits.processes)}`, "--", ...spec.command] : spec.command;
  return [
    ...(uid ? ["unshare", "--mount", "--propagation", "private", "--"] : []),
    ...[
      "bash",
      "--norc",
      "-p",
      "-c",
      parts.launchScript,
      "carrel-sandbox",
      handle.directory,
      uid,
      largestFile(spec),
      ...handle.cgroups,
      "--",
    ],
    // By descriptor: options hold the environment, and every user of the host can read the arguments of a process.
    ...[bwrap, "--args", String(descriptors.arguments), "--", ...limited],
  ];
}

/** In KiB, as the shell counts. */
function largestFile({ writable }: SandboxSpec): string {
  const limits = writable.flatMap(({ limitBytes }) => limitBytes ?? []);
  return limits.length > 0 ? String(Math.floor(Math.max(...limits) / 1024)) : "unlimited";
}

function feed(child: ChildProcess, spec: SandboxSpec, options: readonly string[]): void {
  const pipes: readonly unknown[] = child.stdio;
  const write = (stream: unknown, content: string | Uint8Array) => {
    if (!(stream instanceof Writable)) return;
    // A supervisor that died does not read; that it died is told by its end, not by this.
    stream.on("error", () => stream.destroy());
    stream.end(content);
  };
  write(pipes[0], spec.stdin);
  write(pipes[descriptors.arguments], options.map((option) => `${option}\0`).join(""));
}

/**
 * Resolves with the number of the sandbox's first process. It is awaited in the status file: bubblewrap offers it through a
 * pipe too, but if we died then, writing to that pipe would kill one half of bubblewrap and leave the other.
 */
async function firstProcess(child: ChildProcess, directory: string, spec: SandboxSpec): Promise<number> {
  let end: string | null = null;
  child.once("error", (error) => (end = error.message));
  child.once("exit", (code, signal) => (end = `the launcher ended with ${signal ?? code}`));
  const deadline = performance.now() + startTimeoutMs;
  while (performance.now() < deadline) {
    const known: string | null = end;
    const { init } = await readStatus(directory);
    if (init !== null) return init;
    if (known !== null) break;
    await sleep(1);
  }
  const log = (await readIfThere(spec.logPath)) ?? "";
  throw new Error(`sandbox ${spec.id} did not start: ${end ?? "it took too long"}\n${log.slice(-2_000)}`.trimEnd());
}

// A sandbox that ended at once leaves no process to identify, and then none needs to be found again.
async function recordInit({ records }: Parts, directory: string, child: ChildProcess, pid: number): Promise<void> {
  const init = await readProcess(pid);
  const outside = init && (await readProcess(init.parent));
  if (init && outside?.parent === child.pid) await records.writeInit(directory, init.identity);
}

// Inside a process namespace nothing outlives the first process. Only a bubblewrap that lost its other half within its
// first millisecond waits forever, and is on no record; it is still in the session that our supervisor led.
async function killHalfStarted(handle: SandboxHandle): Promise<boolean> {
  const { supervisor, init } = handle;
  if (init || !supervisor) return true;
  const found = (await readProcesses()).filter(
    ({ session, name, identity }) =>
      session === supervisor.pid && name === "bwrap" && BigInt(identity.startTime) >= BigInt(supervisor.startTime),
  );
  for (const entry of found) killNow(entry.identity.pid, false);
  return found.length === 0;
}
