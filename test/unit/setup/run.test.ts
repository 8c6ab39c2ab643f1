import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { text } from "node:stream/consumers";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { makeTemporaryDirectory, removeDirectory } from "../../support/temporary.ts";

/** A checkout with the real set-up, a program of one line, and an npm of our own that writes down its calls. */
let checkout: string;
const at = (...names: string[]): string => path.join(checkout, ...names);

beforeEach(() => {
  checkout = makeTemporaryDirectory("setup");
  for (const directory of ["setup", "bin", "server"]) mkdirSync(at(directory));
  for (const file of ["run.mjs", "install.mjs", "lock.mjs", "system.mjs", "node-flags.json"])
    copyFileSync(path.resolve("setup", file), at("setup", file));
  writeFileSync(at("package.json"), JSON.stringify({ type: "module" }));
  writeFileSync(at("package-lock.json"), "{}");
  for (const step of ["after-install.ts", "runner.ts"]) writeFileSync(at("setup", step), "");
  writeFileSync(at("program.ts"), "process.stdout.write(JSON.stringify(process.argv.slice(2)));\nprocess.exitCode = 7;\n");
  provideNpm("mkdir -p node_modules && /bin/sleep 0.3");
});
afterEach(() => removeDirectory(checkout));

function provideNpm(script: string): void {
  writeFileSync(at("bin", "npm"), `#!/bin/sh\necho "$@" >> ${at("npm-calls")}\n${script}\n`);
  chmodSync(at("bin", "npm"), 0o755);
}

const npmCalls = (): number => (existsSync(at("npm-calls")) ? readFileSync(at("npm-calls"), "utf8").trim().split("\n").length : 0);

function start(entry: string, ...args: string[]): ChildProcess {
  // Only our npm is on the path: neither bubblewrap nor a package manager is found.
  symlinkOnce("/bin/mkdir", at("bin", "mkdir"));
  return spawn(process.execPath, [at("setup", "run.mjs"), entry, ...args], { env: { PATH: at("bin") }, stdio: ["ignore", "pipe", "pipe"] });
}

function symlinkOnce(target: string, file: string): void {
  if (!existsSync(file)) symlinkSync(target, file);
}

async function run(entry: string, ...args: string[]): Promise<{ stdout: string; stderr: string; code: number | null }> {
  const child = start(entry, ...args);
  if (child.stdout === null || child.stderr === null) throw new Error("the program's output is not piped");
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
  return { stdout, stderr, code: code as number | null };
}

describe("node setup/run.mjs", () => {
  it("installs the packages on the first run and asks npm nothing on the next", async () => {
    const first = await run("program.ts", "a", "b c");
    expect(first).toMatchObject({ stdout: '["a","b c"]', code: 7 });
    expect(first.stderr).toContain("installing packages");
    expect(readFileSync(at("npm-calls"), "utf8")).toContain("--ignore-scripts");
    expect(await run("program.ts")).toEqual({ stdout: "[]", stderr: "", code: 7 });
    expect(npmCalls()).toBe(1);
  });

  it("installs again when the lock file has changed", async () => {
    await run("program.ts");
    writeFileSync(at("package-lock.json"), "{ }");
    await run("program.ts");
    expect(npmCalls()).toBe(2);
  });

  it("installs once when several terminals start together", async () => {
    const results = await Promise.all([run("program.ts", "1"), run("program.ts", "2"), run("program.ts", "3")]);
    expect(results.map((result) => result.stdout)).toEqual(['["1"]', '["2"]', '["3"]']);
    expect(results.map((result) => result.stderr).join("")).toContain("waiting for another set-up");
    expect(npmCalls()).toBe(1);
  });

  it("is not held up by a set-up that was killed", async () => {
    mkdirSync(at(".toolchain"));
    symlinkSync("4194000-1", at(".toolchain", "lock"));
    expect(await run("program.ts")).toMatchObject({ code: 7 });
  });

  it("shows why npm failed, runs nothing, and tries again next time", async () => {
    provideNpm("echo 'npm error ENOTFOUND registry'; exit 1");
    const failed = await run("program.ts");
    expect(failed).toMatchObject({ stdout: "", code: 1 });
    expect(failed.stderr).toContain("npm error ENOTFOUND registry");
    expect(failed.stderr).toContain("then start again");
    provideNpm("mkdir -p node_modules");
    expect(await run("program.ts")).toMatchObject({ code: 7 });
  });

  it("passes signals on and ends as the program ends", async () => {
    writeFileSync(
      at("program.ts"),
      'process.on("SIGTERM", () => process.exit(5));\nprocess.stdout.write("up");\nsetInterval(() => {}, 1000);\n',
    );
    const child = start("program.ts");
    await once(child.stdout ?? child, "data");
    child.kill("SIGTERM");
    expect(await once(child, "exit")).toEqual([5, null]);
  });

  it("says that bubblewrap is missing only for programs that start sandboxes, and runs them all the same", async () => {
    writeFileSync(at("server", "main.ts"), "process.exitCode = 7;\n");
    const server = await run("server/main.ts");
    expect(server.code).toBe(7);
    expect(server.stderr).toContain("sessions need bubblewrap, which is not installed; install the package bubblewrap");
    expect((await run("program.ts")).stderr).not.toContain("bubblewrap");
  });

  it("makes the runner first for programs that start sandboxes, and runs nothing when that fails", async () => {
    writeFileSync(at("server", "main.ts"), 'process.stdout.write("up");\n');
    writeFileSync(at("setup", "runner.ts"), 'throw new Error("no such module");\n');
    const failed = await run("server/main.ts");
    expect(failed).toMatchObject({ stdout: "", code: 1 });
    expect(failed.stderr).toContain("the runner could not be bundled");
    expect(failed.stderr).toContain("no such module");
    expect(await run("program.ts")).toMatchObject({ code: 7 });
  });

  it("gives every program a place to keep its compiled sources, unless it has one", async () => {
    writeFileSync(at("program.ts"), "process.stdout.write(String(process.env.NODE_COMPILE_CACHE));\n");
    expect((await run("program.ts")).stdout).toBe(at(".toolchain", "compile-cache"));
  });
});
