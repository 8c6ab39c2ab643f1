import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { createBubblewrapDriver } from "./bubblewrap.ts";
import type { SandboxDriver, SandboxLog } from "./driver.ts";
import { createUnsandboxedDriver } from "./unsandboxed.ts";

export type SandboxChoice = "auto" | "bubblewrap" | "none";

/** The machine offers no sandbox. The message is complete advice to an operator: one command, or one variable. */
export class SandboxUnavailableError extends Error {
  override name = "SandboxUnavailableError";
}

/**
 * The driver of the configured kind, seen to work: a sandbox has run a program to its end. There is no fallback to running
 * without one. Throws `SandboxUnavailableError`.
 */
export async function selectDriver(config: {
  sandbox: SandboxChoice;
  stateDirectory: string;
  /** Default: `bwrap` of the system path. */
  bwrapPath?: string;
  log: SandboxLog;
}): Promise<SandboxDriver> {
  const { stateDirectory, log } = config;
  const bwrapPath = config.bwrapPath ?? "bwrap";
  if (config.sandbox === "none") return createUnsandboxedDriver({ stateDirectory, log });
  const checkDirectory = join(stateDirectory, `check-${process.pid}`);
  await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
  try {
    // Apart from the real state, so that what a failed check leaves behind is never taken for a session's sandbox.
    await runTrue(await createBubblewrapDriver({ stateDirectory: checkDirectory, bwrapPath, log: silent }), checkDirectory);
  } catch (error) {
    throw new SandboxUnavailableError(advice(error), { cause: error });
  } finally {
    await rm(checkDirectory, { recursive: true, force: true });
  }
  return createBubblewrapDriver({ stateDirectory, bwrapPath, log });
}

async function runTrue(driver: SandboxDriver, directory: string): Promise<void> {
  const logPath = join(directory, "check.log");
  const handle = await driver.start({
    id: "check",
    labels: {},
    command: ["/usr/bin/true"],
    cwd: "/",
    environment: {},
    readOnly: [],
    writable: [],
    stdin: new Uint8Array(),
    logPath,
    limits: { memoryBytes: 64 << 20, cpus: 1, processes: 16 },
  });
  try {
    const status = await driver.wait(handle, AbortSignal.timeout(10_000));
    if (status.state !== "exited" || status.exitCode !== 0) {
      throw new Error(`a test program in the sandbox ended with ${JSON.stringify(status)}`);
    }
  } finally {
    await driver.destroy(handle);
  }
}

function advice(error: unknown): string {
  const reason = error instanceof Error ? error.message : String(error);
  const without = "for development without any isolation, set CARREL_SANDBOX=none";
  return waysToSayMissing.some((pattern) => pattern.test(reason))
    ? `bubblewrap is not installed: run \`apt-get install -y bubblewrap\` as root, or, ${without}`
    : `bubblewrap does not work on this machine; ${without}. ${reason}`;
}

// Of the shell, of setpriv, and of ourselves when its path is configured.
const waysToSayMissing = [
  /bwrap[^:]*: (command not found|not found|No such file)/,
  /failed to execute \S*bwrap\S*: No such file/,
  /ENOENT.*bwrap'$/m,
];

const silent: SandboxLog = { info: () => {}, warn: () => {} };
