/** bubblewrap, the one thing of Carrel that npm cannot bring. Whatever is missing is said; the program starts all the same. */
import { spawnSync } from "node:child_process";
import { accessSync, constants, mkdirSync, openSync, readFileSync } from "node:fs";
import path from "node:path";

/** One command per kind of system; the first whose program is there is shown. */
const INSTALLERS = [
  ["apt-get", "apt-get install -y --no-install-recommends bubblewrap"],
  ["dnf", "dnf install -y bubblewrap"],
  ["pacman", "pacman -S --noconfirm bubblewrap"],
  ["zypper", "zypper install -y bubblewrap"],
  ["apk", "apk add bubblewrap"],
];

/** Settings of the kernel under which an ordinary user gets no namespaces, and what to set them to. */
const FORBIDDING = [
  ["kernel.unprivileged_userns_clone", "0", "1"],
  ["user.max_user_namespaces", "0", "15000"],
  ["kernel.apparmor_restrict_unprivileged_userns", "1", "0"],
];

export function ensureSandbox(root, environment) {
  if (process.platform !== "linux" || ["docker", "none"].includes(environment.CARREL_SANDBOX ?? "")) return;
  if (!isOnPath("bwrap", environment) && !install(root, environment)) return;
  const trial = spawnSync("bwrap", ["--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", "true"], {
    encoding: "utf8",
    timeout: 10_000,
  });
  if (trial.status !== 0) tell(`bubblewrap cannot make a sandbox here (${reasonOf(trial)}). ${remedy()}`);
}

function install(root, environment) {
  const [, command] = INSTALLERS.find(([program]) => isOnPath(program, environment)) ?? [];
  const instruction = command === undefined ? "install the package bubblewrap" : `run: ${process.geteuid() === 0 ? "" : "sudo "}${command}`;
  if (process.geteuid() !== 0 || !isOnPath("apt-get", environment)) {
    tell(`sessions need bubblewrap, which is not installed; ${instruction}`);
    return false;
  }
  tell("installing bubblewrap from the system's packages");
  const toolchain = path.join(root, ".toolchain");
  mkdirSync(toolchain, { recursive: true });
  const logFile = path.join(toolchain, "bubblewrap.log");
  const log = openSync(logFile, "w");
  const options = { stdio: ["ignore", log, log], env: { ...environment, DEBIAN_FRONTEND: "noninteractive" } };
  // A failed update (one dead mirror of many) does not have to keep the package away.
  spawnSync("apt-get", ["update"], options);
  spawnSync("apt-get", command.split(" ").slice(1), options);
  if (isOnPath("bwrap", environment)) return true;
  tell(`bubblewrap could not be installed (see ${logFile}) and sessions need it; ${instruction}`);
  return false;
}

function remedy() {
  for (const [name, forbidding, allowing] of FORBIDDING) {
    if (readSetting(name) === forbidding) return `Run: ${process.geteuid() === 0 ? "" : "sudo "}sysctl -w ${name}=${allowing}`;
  }
  return "If this is a container, start it with leave to create user namespaces (Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined)";
}

function readSetting(name) {
  try {
    return readFileSync(`/proc/sys/${name.replaceAll(".", "/")}`, "utf8").trim();
  } catch {
    // A kernel without the setting does not forbid by it.
    return undefined;
  }
}

function reasonOf(trial) {
  return trial.error?.message ?? (trial.stderr.trim().split("\n").at(-1) || `it ended with ${trial.signal ?? trial.status}`);
}

function isOnPath(program, environment) {
  return (environment.PATH ?? "").split(path.delimiter).some((directory) => {
    try {
      accessSync(path.join(directory, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

function tell(line) {
  process.stderr.write(`carrel: ${line}\n`);
}
