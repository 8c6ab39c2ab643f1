// A copy of the checkout in which a text can be changed and a test be run.
import { execFile } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { makeTemporaryDirectory, removeDirectory } from "../../support/temporary.ts";
import type { PlantedBug } from "./bugs.ts";

export type Copy = {
  plant(bug: PlantedBug): void;
  /** Makes the file what it was. */
  pull(bug: PlantedBug): void;
  run(tests: Pick<PlantedBug, "test" | "named">[]): Promise<Outcome>;
  remove(): void;
};

/** `broken` is what kept a test file from being run at all: no finding of a test. */
export type Outcome = { passed: string[]; failed: string[]; broken: string[] };

const root = path.resolve(import.meta.dirname, "../../..");
/** What is changed, and what imports it, has to be a copy; the rest is looked at where it is. */
const copied = ["server", "test", "package.json"];
const linked = ["node_modules", "gen", "runner", "demo", "sdk", "setup", "bench", "cli", "proto", "web"];

/** One database for all of them is made already, so no runner and no Postgres are. */
const config = `import { defineConfig } from "vitest/config";
export default defineConfig({
  test: { include: ["test/**/*.test.ts"], globalSetup: ["test/support/postgres-setup.ts"], testTimeout: 30_000, hookTimeout: 60_000, retry: 0, pool: "forks" },
});
`;

/** @param databaseUrl of a server on which the tests may make databases. */
export function copyCheckout(databaseUrl: string): Copy {
  const directory = makeTemporaryDirectory("planted");
  for (const name of copied) cpSync(path.join(root, name), path.join(directory, name), { recursive: true });
  for (const name of linked) symlinkSync(path.join(root, name), path.join(directory, name));
  writeFileSync(path.join(directory, "vitest.config.ts"), config);
  mkdirSync(path.join(directory, "out"));
  let runs = 0;
  const change = (file: string, find: string, replace: string): void => {
    const place = path.join(directory, file);
    const text = readFileSync(place, "utf8");
    if (text.split(find).length !== 2) throw new Error(`${JSON.stringify(find)} is not once in ${file}`);
    writeFileSync(
      place,
      text.replace(find, () => replace),
    );
  };
  return {
    plant: ({ file, find, replace }) => change(file, find, replace),
    pull: ({ file }) => cpSync(path.join(root, file), path.join(directory, file)),
    async run(tests) {
      const report = path.join(directory, "out", `${(runs += 1)}.json`);
      const files = [...new Set(tests.map(({ test }) => test))];
      const names = [...new Set(tests.map(({ named }) => named.replace(/[^\w ]/g, ".")))].join("|");
      const program = path.join(root, "node_modules/vitest/vitest.mjs");
      const args = [program, "run", "--root", directory, "--reporter", "json", "--outputFile", report, "-t", names, ...files];
      const env = { ...process.env, TEST_DATABASE_URL: databaseUrl, CARREL_TEST_STORAGE_STRIDE: "1" };
      for (const name of Object.keys(env).filter((key) => key.startsWith("VITEST"))) delete env[name as keyof typeof env];
      const said = await new Promise<string>((resolve) => {
        execFile(process.execPath, args, { cwd: directory, env, maxBuffer: 2 ** 26, timeout: 120_000 }, (_error, stdout, stderr) =>
          resolve(stdout + stderr),
        );
      });
      return outcomeOf(report, said);
    },
    remove: () => removeDirectory(directory),
  };
}

type Report = { testResults: { message: string; assertionResults: { status: string; fullName: string }[] }[] };

function outcomeOf(file: string, said: string): Outcome {
  let report: Report;
  try {
    report = JSON.parse(readFileSync(file, "utf8")) as Report;
  } catch {
    return { passed: [], failed: [], broken: [`no report: ${said.slice(-2_000)}`] };
  } finally {
    rmSync(file, { force: true });
  }
  const all = report.testResults.flatMap(({ assertionResults }) => assertionResults);
  return {
    passed: all.filter(({ status }) => status === "passed").map(({ fullName }) => fullName),
    failed: all.filter(({ status }) => status === "failed").map(({ fullName }) => fullName),
    broken: report.testResults
      .filter(({ message, assertionResults }) => message !== "" && !assertionResults.some(({ status }) => status === "failed"))
      .map(({ message }) => message),
  };
}
