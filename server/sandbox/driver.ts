/**
 * The contract of a sandbox driver: the one boundary between the control plane and code it does not trust.
 * Whatever a specification does not allow is denied. A driver that cannot enforce a limit says so in `enforced`.
 */

/** Upper bounds for everything that runs in one sandbox together. */
export type SandboxLimits = {
  memoryBytes: number;
  /** Processor cores; fractions are allowed. */
  cpus: number;
  /** Processes and threads, counted together as the kernel does. */
  processes: number;
};

/** A file, directory or socket of the host (absolute path) and where it appears in the sandbox (absolute path). */
export type SandboxMount = {
  source: string;
  target: string;
  /**
   * For a writable directory: the most that may lie in it. A driver that enforces this keeps the content in a file of its own
   * beside the directory, `<source>.image`, and only sandboxes see it. Where no driver can, no single file grows past it.
   */
  limitBytes?: number;
};

export type SandboxSpec = {
  /** Unique among the sandboxes of one state directory: 1 to 63 of `a-z 0-9 -`, not starting with `-`. */
  id: string;
  /** Who owns the sandbox (installation, session, epoch); given back unchanged by `list`. */
  labels: Readonly<Record<string, string>>;
  /** Program and arguments, as paths of the sandbox. Visible in the process list of the host: no secrets. */
  command: readonly string[];
  cwd: string;
  /** The whole environment; nothing is inherited. No secrets of ours: every program in the sandbox can read it. */
  environment: Readonly<Record<string, string>>;
  /** Sources must be readable by everybody; the directories above them need not be. A socket needs mode 0666. */
  readOnly: readonly SandboxMount[];
  /** Directories handed over to the sandbox: as root, the driver changes the owner of all they hold. */
  writable: readonly SandboxMount[];
  /**
   * Delivered to the standard input of the process, then end of file. Secrets go here: it is read once and is in no
   * file, argument or environment. Up to 64 KiB arrive even if the control plane dies right after `start`.
   */
  stdin: Uint8Array;
  /** File of the host that standard output and error are appended to. What is in it was written by untrusted code. */
  logPath: string;
  limits: SandboxLimits;
};

/** A process that cannot be mistaken for a later one with the same number. */
export type ProcessIdentity = {
  pid: number;
  /** Clock ticks since boot, from /proc/<pid>/stat. */
  startTime: string;
};

/** Plain data: another process, or this one after a restart, can inspect and destroy with it. */
export type SandboxHandle = {
  driver: string;
  id: string;
  labels: Readonly<Record<string, string>>;
  /** Process identities hold for one boot of the machine only. */
  bootId: string;
  /** Our process around the sandbox, leader of a process group; null when it never got as far as that. */
  supervisor: ProcessIdentity | null;
  /** First process of the sandbox: when it is gone, everything in the sandbox is. Null where there is none. */
  init: ProcessIdentity | null;
  /** What the driver keeps about this sandbox. */
  directory: string;
  /** Control groups of this sandbox alone. */
  cgroups: readonly string[];
  /** User of the host that only this sandbox runs as; null where it runs as the control plane's own user. */
  uid: number | null;
};

/** `exitCode` is 128 + n after signal n, and null when nobody saw the end (machine rebooted, sandbox destroyed). */
export type SandboxStatus = { state: "running" } | { state: "exited"; exitCode: number | null };

export type SandboxEnforcement = {
  memory: boolean;
  cpus: boolean;
  processes: boolean;
  /** `limitBytes` of writable directories. */
  disk: boolean;
  /** What is not enforced and why, as a sentence for operators; absent when everything is. */
  reason?: string;
};

export type SandboxDriver = {
  name: string;
  enforced: SandboxEnforcement;
  /** Resolves when the sandbox exists and is on record. After an error nothing of it is left. */
  start(spec: SandboxSpec): Promise<SandboxHandle>;
  inspect(handle: SandboxHandle): Promise<SandboxStatus>;
  /** Kills everything in the sandbox and forgets it; idempotent. Resolves when nothing is left; throws if something is. */
  destroy(handle: SandboxHandle): Promise<void>;
  /** Resolves when the command has ended; rejects with the signal's reason when that comes first. */
  wait(handle: SandboxHandle, signal: AbortSignal): Promise<SandboxStatus>;
  /** The processor cores a sandbox may use from now on; `Infinity` for all. Nothing happens where that is not enforced, or it is gone. */
  setCpus(handle: SandboxHandle, cpus: number): Promise<void>;
  /** Every sandbox not yet destroyed, dead ones included, whoever started it: destroying is how one is forgotten. */
  list(): Promise<SandboxHandle[]>;
};

/** The part of a logger that drivers use. */
export type SandboxLog = {
  info(fields: Readonly<Record<string, unknown>>, message: string): void;
  warn(fields: Readonly<Record<string, unknown>>, message: string): void;
};

/** A file system with less room holds no more than itself. */
const leastLimitBytes = 16 * 1024 * 1024;

const idPattern = /^[a-z0-9][a-z0-9-]{0,62}$/;
// Covering one of these would undo what the driver sets up there.
const reservedTargets = ["/proc", "/dev", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/** Throws an error that names the first field of `spec` no driver can honour. */
export function checkSpec(spec: SandboxSpec): void {
  const refuse = (problem: string) => {
    throw new Error(`sandbox specification: ${problem}`);
  };
  if (!idPattern.test(spec.id)) refuse("id must be 1 to 63 of a-z, 0-9 and -");
  if (!spec.command[0]) refuse("command is empty");
  if (!isPlainPath(spec.cwd)) refuse("cwd must be an absolute path");
  for (const [name, value] of Object.entries(spec.environment)) {
    if (!/^[^=\0]+$/.test(name) || value.includes("\0")) refuse("environment holds an impossible name or value");
  }
  if (spec.command.some((argument) => argument.includes("\0"))) refuse("command holds a NUL character");
  for (const mount of [...spec.readOnly, ...spec.writable]) {
    if (!isPlainPath(mount.source) || !isPlainPath(mount.target)) {
      refuse(`mount ${JSON.stringify(mount)} needs plain absolute paths`);
    }
    if (mount.limitBytes !== undefined && !(mount.limitBytes >= leastLimitBytes)) refuse(`the limit of ${mount.target} is too small`);
    if (mount.target === "/" || reservedTargets.some((path) => isWithin(mount.target, path))) {
      refuse(`mount target ${mount.target} belongs to the system`);
    }
  }
  for (const [name, value] of Object.entries(spec.limits)) {
    if (!(Number.isFinite(value) && value > 0)) refuse(`limit ${name} must be a positive number`);
  }
}

/** True when `path` is `parent` or lies under it. */
export function isWithin(path: string, parent: string): boolean {
  return path === parent || path.startsWith(parent.endsWith("/") ? parent : `${parent}/`);
}

function isPlainPath(path: string): boolean {
  return path.startsWith("/") && !path.includes("\0") && !path.split("/").some((part) => part === ".." || part === ".");
}
