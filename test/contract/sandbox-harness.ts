import { execFile, spawn } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { SandboxDriver, SandboxHandle, SandboxSpec } from "../../server/sandbox/driver.ts";

/** Where the hostile programs lie, and where sandboxes of the suite find them. */
export const escapePrograms = resolve(import.meta.dirname, "../support/escape");
const escapeTarget = "/escape";

export type MakeDriver = (stateDirectory: string) => Promise<SandboxDriver>;

export type Outcome = { exitCode: number | null; output: string };

export type Harness = {
  /** Closed to everybody else, as a data directory is. */
  directory: string;
  stateDirectory: string;
  driver: SandboxDriver;
  /** A specification with a workspace of its own; `change` overrides. */
  spec(command: readonly string[], change?: Partial<SandboxSpec>): SandboxSpec;
  /** Starts, waits, destroys. */
  run(command: readonly string[], change?: Partial<SandboxSpec>): Promise<Outcome>;
  /** One hostile attempt inside a sandbox; answers its line. */
  attempt(...words: string[]): Promise<string>;
  log(spec: SandboxSpec): string;
  close(): Promise<void>;
};

export const isRoot = process.geteuid?.() === 0;

export async function createHarness(makeDriver: MakeDriver): Promise<Harness> {
  const directory = mkdtempSync(join(tmpdir(), "carrel-sandbox-"));
  chmodSync(directory, 0o700);
  const stateDirectory = join(directory, "state");
  const driver = await makeDriver(stateDirectory);
  let count = 0;

  const spec = (command: readonly string[], change: Partial<SandboxSpec> = {}): SandboxSpec => {
    const id = `box-${++count}`;
    const workspace = join(directory, `${id}-workspace`);
    mkdirSync(workspace);
    return {
      id,
      labels: { session: id },
      command,
      cwd: "/workspace",
      environment: { PATH: "/usr/bin:/bin" },
      readOnly: [{ source: escapePrograms, target: escapeTarget }],
      writable: [{ source: workspace, target: "/workspace" }],
      stdin: new Uint8Array(),
      logPath: join(directory, `${id}.log`),
      limits: { memoryBytes: 512 * 2 ** 20, cpus: 2, processes: 200 },
      ...change,
    };
  };
  const log = (of: SandboxSpec) => readFileSync(of.logPath, "utf8");
  const run = async (command: readonly string[], change: Partial<SandboxSpec> = {}) => {
    const of = spec(command, change);
    const handle = await driver.start(of);
    try {
      const status = await driver.wait(handle, AbortSignal.timeout(30_000));
      return { exitCode: status.state === "exited" ? status.exitCode : null, output: log(of).trim() };
    } finally {
      await driver.destroy(handle);
    }
  };
  return {
    directory,
    stateDirectory,
    driver,
    spec,
    run,
    log,
    attempt: async (...words) => (await run(["perl", `${escapeTarget}/attempt.pl`, ...words])).output,
    close: async () => {
      for (const handle of await driver.list()) await driver.destroy(handle);
      rmSync(directory, { recursive: true });
    },
  };
}

/** The control: the same hostile program with no sandbox around it. */
export function attemptOutside(...words: string[]): Promise<string> {
  return outside(["perl", join(escapePrograms, "attempt.pl"), ...words]);
}

export function outside(command: readonly string[]): Promise<string> {
  const [program = "", ...rest] = command;
  return new Promise((settle, reject) => {
    execFile(program, rest, { encoding: "utf8" }, (error, stdout) => (error ? reject(error) : settle(stdout.trim())));
  });
}

/** A control that may make namespaces and mounts although its user is an ordinary one. */
export function attemptInOwnNamespaces(...words: string[]): Promise<string> {
  return outside(["unshare", "--user", "--map-root-user", "--mount", "perl", join(escapePrograms, "attempt.pl"), ...words]);
}

/** Starts a sandbox from another control plane, launched by `prefix`, which is then killed without warning. */
export async function startFromDyingOwner(
  stateDirectory: string,
  spec: SandboxSpec,
  prefix: readonly string[] = [],
): Promise<SandboxHandle> {
  const [program = "", ...rest] = [...prefix, process.execPath, resolve(import.meta.dirname, "sandbox-owner.ts"), stateDirectory];
  const owner = spawn(program, rest, { stdio: ["pipe", "pipe", "inherit"] });
  const ended = new Promise((settle) => owner.once("exit", settle));
  owner.stdin.end(JSON.stringify({ ...spec, stdin: Buffer.from(spec.stdin).toString("base64") }));
  const line = await new Promise<string>((settle, reject) => {
    owner.stdout.once("data", (chunk: Buffer) => settle(chunk.toString()));
    owner.once("exit", (code) => reject(new Error(`the owner ended with ${code} before its sandbox was there`)));
  });
  owner.kill("SIGKILL");
  await ended;
  return JSON.parse(line) as SandboxHandle;
}

export function isRunning(pid: number | undefined): boolean {
  if (pid === undefined) return false;
  try {
    // A zombie is no longer running; whoever is its parent may be slow to notice.
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}
