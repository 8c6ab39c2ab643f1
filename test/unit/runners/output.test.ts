import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { lastOutput, withOutput } from "../../../server/runners/output.ts";
import { newToken } from "../../../server/runners/tokens.ts";
import { makeTemporaryDirectory, removeDirectory } from "../../support/temporary.ts";

const directory = makeTemporaryDirectory("output");
afterAll(() => removeDirectory(directory));

const shown = (output: string) => withOutput("it failed", output);

test("no token that is given to a sandbox, nor a provider's key, is shown", () => {
  for (const secret of [
    newToken("attach"),
    newToken("lease"),
    newToken("phantom"),
    "sk-ant-api03-abc_DEF-123",
    "eyJhbGciOi.eyJzdWIi.c2ln-_",
  ]) {
    expect(shown(`KEY=${secret}\n{"token":"${secret}"}`)).toBe('it failed\nKEY=[secret]\n{"token":"[secret]"}');
    expect(withOutput(`${secret} died`, "")).toBe("[secret] died");
  }
});

test("no path of the host is shown; those that every sandbox has are", () => {
  expect(shown("bwrap: Can't find source path /srv/carrel data/box_1: No such file")).not.toContain("srv");
  expect(shown("launch: /var/lib/carrel/driver/x: denied (/dev/shm/carrel-0-ab/box_1)")).toBe("it failed\nlaunch: [path] denied ([path])");
  expect(shown("/home/other/x /homes /usrlocal/x")).toBe("it failed\n[path] [path] [path]");
  expect(shown("bind:/srv/x file:///srv/x file://localhost/srv/x //srv/x")).toBe("it failed\nbind:[path] [path] [path] [path]");
  expect(shown("PATH=/usr/bin:/srv/x")).toBe("it failed\nPATH=/usr/bin:[path]");
  for (const kept of [
    "at run (/opt/carrel/runner.cjs:12:4)",
    "Error: ENOENT, open '/workspace/a b.txt'",
    "exec /usr/bin/env",
    "see https://example.com/a/b, and a/b",
    "see https://example.com:8443/a/b and file:///usr/lib/x.js",
    "over /run/carrel/channel/carrel.sock",
  ])
    expect(shown(kept)).toBe(`it failed\n${kept}`);
});

test("no place of the installation is shown, wherever it is and whatever is in its name", async () => {
  const path = join(directory, "places.log");
  const places = ["/srv/carrel data", "/usr/lib/carrel", "/usr/lib/carrel/agent", "/etc/carrel"];
  writeFileSync(path, "/srv/carrel data/box_1: no\nfile:///usr/lib/carrel/agent/cli.js:3\nx:/etc/carrel/key /usr/lib/libc.so");
  expect(withOutput("it failed", await lastOutput(path, places))).toBe("it failed\n[path] no\n[path]\nx:[path] /usr/lib/libc.so");
});

test("the end of the output is shown, as far as two thousand characters go", () => {
  const long = Array.from({ length: 500 }, (_, index) => `line ${index}`).join("\n");
  const text = shown(long);
  expect([text.length, text.startsWith("it failed\n"), text.endsWith("line 499")]).toEqual([2_000, true, true]);
  expect(withOutput("x".repeat(3_000), "more")).toBe("x".repeat(2_000));
  expect(shown("")).toBe("it failed");
});

test("a secret is not shown because its beginning was not read", async () => {
  const path = join(directory, "cut.log");
  for (const cut of [2, 20]) {
    const secret = newToken("phantom");
    const line = `KEY=${secret}`;
    // What follows is shown much shorter than it is.
    writeFileSync(path, `before\n${line}\n/${"x".repeat(8_000 - 2 - line.length + 4 + cut)}`);
    expect(withOutput("it failed", await lastOutput(path, []))).not.toContain(secret.slice(-10));
  }
});

test("the last twenty lines of a log are read, however long it is; where there is none, nothing", async () => {
  const path = join(directory, "sandbox.log");
  expect(await lastOutput(path, [])).toBe("");
  writeFileSync(path, `${"x".repeat(100_000)}\n${Array.from({ length: 30 }, (_, index) => `line ${index}`).join("\n")}`);
  expect((await lastOutput(path, [])).split("\n")).toEqual(Array.from({ length: 20 }, (_, index) => `line ${index + 10}`));
  await expect(lastOutput(directory, [])).rejects.toThrow("EISDIR");
});
