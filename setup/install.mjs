/** Node and the packages. Does nothing but read two files when all is in place. */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { withLock } from "./lock.mjs";

/** The checkout. */
export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const toolchain = path.join(root, ".toolchain");

const NODE_MAJOR = 24;
const NODE_VERSION = "24.21.0";
/** What npm must find in the package of Node that it downloads. */
const NODE_INTEGRITY = {
  x64: "sha512-3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==",
  arm64: "sha512-FpJRPEz2OvvTLfjIOlNGFY9JLPMKgl5m+d4oGYBLg24kJ1mmvN1Zl/HPJgF4HDaJ51ISev1l1cRZ/DM+keXW5g==",
};

/** Where Node keeps what it made of the sources: from the second start on nothing has to be stripped of its types and compiled. */
export const compileCache = { NODE_COMPILE_CACHE: path.join(toolchain, "compile-cache") };

/** Something a person has to do; its message is shown without a stack. */
export class SetupError extends Error {}

function tell(line) {
  process.stderr.write(`carrel: ${line}\n`);
}

/** The path of a Node that runs Carrel: this one when it is new enough, else one installed into .toolchain. */
export async function ensureNode() {
  if (Number(process.versions.node.split(".")[0]) >= NODE_MAJOR) return process.execPath;
  if (process.platform !== "linux" || !Object.hasOwn(NODE_INTEGRITY, process.arch)) {
    throw new SetupError(`Carrel needs Node ${NODE_MAJOR}; on ${process.platform} ${process.arch} install it yourself and start again`);
  }
  const name = `node-linux-${process.arch}`;
  const node = path.join(toolchain, "node_modules", name, "bin", "node");
  const stamp = path.join(toolchain, "node-version");
  const isReady = () => readIfPresent(stamp) === NODE_VERSION && existsSync(node);
  if (isReady()) return node;
  await locked(async () => {
    if (isReady()) return;
    tell(`this machine's Node is ${process.versions.node}; fetching Node ${NODE_VERSION} into .toolchain (about 40 MB)`);
    // A lock file rather than a name on the command line: npm then checks the digest above.
    const dependencies = { [name]: NODE_VERSION };
    const manifest = { name: "carrel-toolchain", version: "1.0.0", private: true, dependencies };
    const locked = { version: NODE_VERSION, integrity: NODE_INTEGRITY[process.arch], bin: { node: "bin/node" } };
    const lock = { ...manifest, lockfileVersion: 3, requires: true, packages: { "": manifest, [`node_modules/${name}`]: locked } };
    writeFileSync(path.join(toolchain, "package.json"), JSON.stringify(manifest));
    writeFileSync(path.join(toolchain, "package-lock.json"), JSON.stringify(lock));
    await npm(process.execPath, ["ci", "--prefix", toolchain], `Node ${NODE_VERSION}`);
    const check = spawnSync(node, ["--version"], { encoding: "utf8" });
    if (check.stdout?.trim() !== `v${NODE_VERSION}`) {
      throw new SetupError(`the Node that npm brought does not run here: ${check.error?.message ?? check.stderr}`);
    }
    writeFileSync(stamp, NODE_VERSION);
  });
  return node;
}

/** Makes node_modules match package-lock.json. Under the Node that Carrel needs: npm chooses versions by the Node it runs on. */
export async function ensurePackages(node) {
  const stamp = path.join(root, "node_modules", ".carrel-installed");
  const digest = createHash("sha256")
    .update(readFileSync(path.join(root, "package-lock.json")))
    .digest("hex");
  const wanted = `${digest} node${NODE_MAJOR} ${process.platform}-${process.arch}\n`;
  if (readIfPresent(stamp) === wanted) return;
  await locked(async () => {
    if (readIfPresent(stamp) === wanted) return;
    tell("installing packages into node_modules (about 800 MB; takes a minute)");
    rmSync(stamp, { force: true });
    await npm(node, ["ci", "--prefix", root, "--include=dev", "--include=optional"], "the packages");
    await capture(node, [path.join(root, "setup", "after-install.ts")], "finishing the packages");
    writeFileSync(stamp, wanted);
    tell("packages are installed");
  });
}

/** Makes the one file that sandboxes are shown, every time: that takes less than finding out whether it is current. */
export function ensureRunner(node) {
  const env = { ...compileCache, ...process.env };
  const { status, error, stderr } = spawnSync(node, [path.join(root, "setup", "runner.ts")], { env, encoding: "utf8" });
  if (status !== 0) throw new SetupError(`the runner could not be bundled: ${error?.message ?? stderr}`);
}

/** No package's own scripts are run: what they would do and Carrel needs is done in after-install.ts. */
async function npm(node, args, what) {
  const quiet = [
    "--ignore-scripts",
    "--global=false",
    "--no-audit",
    "--no-fund",
    "--no-progress",
    "--no-update-notifier",
    "--loglevel=warn",
  ];
  // Inside `npm start` npm says where it is; otherwise the one on PATH is taken, whose first line looks up `node` on PATH.
  const script = process.env.npm_execpath;
  const command = script !== undefined && /npm-cli\.c?js$/.test(script) && existsSync(script) ? [node, script] : ["npm"];
  await capture(command[0], [...command.slice(1), ...args, ...quiet], `installing ${what}`, path.dirname(node));
}

/** Runs a step with its output in .toolchain/setup.log; on failure shows the end of it and what to do. */
async function capture(file, args, what, binDirectory = "") {
  const logFile = path.join(toolchain, "setup.log");
  const log = openSync(logFile, "w");
  const env = { ...process.env, PATH: [binDirectory, process.env.PATH].filter(Boolean).join(path.delimiter) };
  const child = spawn(file, args, { cwd: root, env, stdio: ["ignore", log, log] });
  closeSync(log);
  const failure = await new Promise((resolve) => {
    child.on("error", (error) => resolve(error.code === "ENOENT" ? `${file} was not found` : error.message));
    child.on("exit", (code, signal) => resolve(code === 0 ? undefined : `${path.basename(file)} ended with ${signal ?? `code ${code}`}`));
  });
  if (failure === undefined) return;
  const end = readFileSync(logFile, "utf8")
    .trimEnd()
    .split("\n")
    .slice(-12)
    .map((line) => `  ${line}\n`)
    .join("");
  throw new SetupError(
    `${what} failed: ${failure}\n${end}` +
      `  The whole output is in ${logFile}. Needed are npm, its registry within reach, and about 1 GB in ${root}; then start again.`,
  );
}

async function locked(work) {
  try {
    mkdirSync(toolchain, { recursive: true });
    return await withLock(path.join(toolchain, "lock"), (owner) => tell(`waiting for another set-up to end (process ${owner})`), work);
  } catch (error) {
    if (!["EACCES", "EROFS", "EPERM"].includes(error.code)) throw error;
    throw new SetupError(
      `something has to be installed and this user may not write to ${error.dest ?? error.path ?? root}; ` +
        "start once as its owner, or use a checkout of your own",
    );
  }
}

function readIfPresent(file) {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}
