// Runs inside a sandbox, as the agent's own command: looks at all it can see and prints what it found as one line of JSON.
// Argument, in base64 so that it is not itself what is found: a JSON object { needles: {name: text}, paths: [host paths], writes: [paths] }.
import { closeSync, existsSync, lstatSync, openSync, readdirSync, readFileSync, readlinkSync, readSync, writeFileSync } from "node:fs";

const { needles, paths, writes } = JSON.parse(Buffer.from(process.argv[2], "base64").toString());
const wanted = Object.entries(needles).map(([name, text]) => [name, Buffer.from(text)]);
const found = {};
const leases = new Set();
const seen = { files: 0, bytes: 0, memory: 0 };

const note = (where, bytes) => {
  for (const [token] of bytes.toString("latin1").matchAll(/clt_[A-Za-z0-9_-]{43}/g)) leases.add(token);
  for (const [name, needle] of wanted) if (bytes.includes(needle)) (found[name] ??= []).push(where);
};
const attempt = (work) => {
  try {
    return work();
  } catch (error) {
    return { refused: error.code ?? String(error) };
  }
};

function walk(directory) {
  let names;
  try {
    names = readdirSync(directory);
  } catch {
    return;
  }
  for (const name of names) {
    const path = `${directory === "/" ? "" : directory}/${name}`;
    // The system's own programs are the host's, shown read-only, and were there before any secret.
    if (["/proc", "/sys", "/dev", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/opt/carrel/claude", "/opt/carrel/node"].includes(path))
      continue;
    try {
      const stat = lstatSync(path);
      if (stat.isDirectory()) walk(path);
      else if (stat.isFile() && stat.size < 64 << 20) {
        const bytes = readFileSync(path);
        seen.files += 1;
        seen.bytes += bytes.length;
        note(path, bytes);
      }
    } catch {
      // Not readable, so nothing to find for us.
    }
  }
}

function memory(pid) {
  const file = openSync(`/proc/${pid}/mem`, "r");
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, "latin1").split("\n")) {
      const [, from, to, rights] = /^([0-9a-f]+)-([0-9a-f]+) (\S+)/.exec(line) ?? [];
      if (!rights?.startsWith("rw")) continue;
      const start = parseInt(from, 16);
      const size = Math.min(parseInt(to, 16) - start, 64 << 20);
      for (let at = 0; at < size; at += 1 << 20) {
        const chunk = Buffer.alloc(Math.min((1 << 20) + 256, size - at));
        try {
          const got = readSync(file, chunk, 0, chunk.length, start + at);
          seen.memory += got;
          note(`/proc/${pid}/mem`, chunk.subarray(0, got));
        } catch {
          // A page that is not there.
        }
      }
    }
    return "read";
  } finally {
    closeSync(file);
  }
}

const pids = readdirSync("/proc")
  .filter((name) => /^\d+$/.test(name))
  .map(Number);
const processes = pids.map((pid) => {
  const environment = attempt(() => readFileSync(`/proc/${pid}/environ`, "latin1"));
  if (typeof environment === "string") note(`/proc/${pid}/environ`, Buffer.from(environment, "latin1"));
  const command = attempt(() => readFileSync(`/proc/${pid}/cmdline`, "latin1"));
  if (typeof command === "string") note(`/proc/${pid}/cmdline`, Buffer.from(command, "latin1"));
  return {
    pid,
    command: typeof command === "string" ? command.split("\0").slice(0, 3).join(" ").slice(0, 120) : command,
    variables:
      typeof environment === "string"
        ? environment
            .split("\0")
            .map((entry) => entry.split("=")[0])
            .filter(Boolean)
        : environment,
    descriptors: attempt(() => readdirSync(`/proc/${pid}/fd`).map((fd) => attempt(() => readlinkSync(`/proc/${pid}/fd/${fd}`)))),
    memory: pid === process.pid ? "own" : attempt(() => memory(pid)),
  };
});
walk("/");

const reads = Object.fromEntries(
  paths.map((path) => [path, attempt(() => (lstatSync(path).isDirectory() ? readdirSync(path) : readFileSync(path)) && "read")]),
);
const written = Object.fromEntries(writes.map((path) => [path, attempt(() => writeFileSync(path, "x") ?? "written")]));
const user = readFileSync("/proc/self/status", "utf8").match(/^(Uid|CapEff|NoNewPrivs|Seccomp):.*$/gm);
console.log(
  JSON.stringify({
    processes,
    found,
    leases: [...leases],
    seen,
    reads,
    written,
    user,
    root: readdirSync("/"),
    run: readdirSync("/run"),
    carrel: readdirSync("/run/carrel"),
    channel: readdirSync("/run/carrel/channel"),
    shm: existsSync("/dev/shm") && readdirSync("/dev/shm"),
  }),
);
