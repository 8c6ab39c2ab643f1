import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { bundleForSandbox } from "../../../setup/runner.ts";
import { makeTemporaryDirectory, removeDirectory } from "../../support/temporary.ts";

const directory = makeTemporaryDirectory("bundle");
afterAll(() => removeDirectory(directory));

test("the runner is bundled without the SDK's tool servers", async () => {
  const bundle = readFileSync(await bundleForSandbox("runner/main.ts", join(directory, "runner.cjs")), "utf8");
  expect(/new Ajv|ZodObject/.test(bundle)).toBe(false);
  expect(bundle.length).toBeLessThan(800_000);
});

test("a bundled program runs by itself, knows where it is, and brings no client for the web", async () => {
  const entry = join(directory, "program.ts");
  writeFileSync(
    entry,
    `import * as http from "node:http";
     const loaded = (process as unknown as { moduleLoadList: string[] }).moduleLoadList;
     process.stdout.write(JSON.stringify([typeof http.createServer, import.meta.url, loaded.some((name) => /undici/.test(name))]));`,
  );
  const program = await bundleForSandbox(entry, join(directory, "program.cjs"));
  expect(JSON.parse(execFileSync(process.execPath, [program], { encoding: "utf8" }))).toEqual(["function", `file://${program}`, false]);
});
