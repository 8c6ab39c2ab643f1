#!/usr/bin/env node
/**
 * node setup/run.mjs <entry.ts> [arguments…]
 *
 * Runs one of Carrel's programs after setting up what it needs: the Node it is written for, its packages, and for those
 * that start sandboxes, bubblewrap. Plain JavaScript without dependencies, because it runs under whatever Node (18 or
 * later) the machine has. Everything it says goes to stderr; stdout belongs to the program.
 */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { compileCache, ensureNode, ensurePackages, ensureRunner, root, SetupError } from "./install.mjs";
import { ensureSandbox } from "./system.mjs";

const STARTS_SANDBOXES = ["server/main.ts", "demo/main.ts", "setup/test.ts", "bench/main.ts", "test/faults/run.ts"];

async function main() {
  const [entry, ...args] = process.argv.slice(2);
  if (entry === undefined) throw new SetupError("usage: node setup/run.mjs <entry.ts> [arguments…]");
  const node = await ensureNode();
  await ensurePackages(node);
  if (STARTS_SANDBOXES.includes(entry)) {
    ensureSandbox(root, process.env);
    ensureRunner(node);
  }
  // For the server: much of what it makes for a call dies with the call, and the default would let 64 MB of that wait.
  const flags = JSON.parse(readFileSync(path.join(root, "setup", "node-flags.json"), "utf8"))[entry] ?? [];
  runProgram(node, [...flags, path.resolve(root, entry), ...args]);
}

/** Replaces this process as far as Node can: same streams, same signals, same end. */
function runProgram(node, args) {
  const env = { ...compileCache, ...process.env, PATH: `${path.dirname(node)}${path.delimiter}${process.env.PATH ?? ""}` };
  const child = spawn(node, args, { stdio: "inherit", env });
  const handlers = ["SIGINT", "SIGTERM", "SIGHUP"].map((signal) => {
    const forward = () => {
      // Ctrl+C reaches every process of the terminal's foreground group by itself; a second one would mean "now!".
      if (signal !== "SIGINT" || !isInForeground()) child.kill(signal);
    };
    process.on(signal, forward);
    return [signal, forward];
  });
  child.on("error", (error) => fail(new SetupError(`cannot run ${node}: ${error.message}`)));
  child.on("exit", (code, signal) => {
    for (const [name, forward] of handlers) process.off(name, forward);
    if (signal === null) process.exitCode = code ?? 1;
    else process.kill(process.pid, signal);
  });
}

/** Whether this process belongs to the foreground group of a terminal: fields 5 (group) and 8 (the terminal's group) of stat. */
function isInForeground() {
  try {
    const stat = readFileSync("/proc/self/stat", "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return Number(fields[5]) > 0 && fields[2] === fields[5];
  } catch {
    return process.stdin.isTTY === true;
  }
}

function fail(error) {
  process.stderr.write(error instanceof SetupError ? `carrel: ${error.message}\n` : `carrel: set-up failed: ${error.stack}\n`);
  process.exitCode = 1;
}

main().catch(fail);
