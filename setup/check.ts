/**
 * npm run check: everything that can be said about Carrel without running it. One line for each check, the output of
 * those that failed, and a summary. Reads the checkout and changes nothing in it.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { root } from "./buf.ts";
import { checkAuthorization, checkBreaking, checkGenerated, checkProtoFormat, checkProtoLint, regenerate } from "./check-contract.ts";
import { type Outcome, runTool } from "./check-tool.ts";
import { checkReadme } from "./readme-table.ts";

type Check = { name: string; run(): Promise<Outcome> };

const bin = (name: string) => path.join(root, "node_modules/.bin", name);

/** The schemas of others, which buf needs, exist only after generating: done once, in a copy, for all who need it. */
function contractChecks(copy: string): Check[] {
  const generated = regenerate(copy);
  const after = (name: string, check: () => Promise<Outcome>): Check => ({
    name,
    run: async () => ((await generated).result === "failed" ? { result: "skipped", text: "nothing was generated" } : check()),
  });
  return [
    { name: "generated code", run: async () => ((await generated).result === "failed" ? generated : checkGenerated(copy)) },
    { name: "proto format", run: checkProtoFormat },
    after("proto lint", () => checkProtoLint(copy)),
    after("proto breaking changes", () => checkBreaking(copy)),
    { name: "every method says who may call it", run: checkAuthorization },
  ];
}

const sourceChecks: Check[] = [
  { name: "types", run: () => runTool(bin("tsc"), ["-p", "tsconfig.json"]) },
  { name: "lint and format", run: () => runTool(bin("biome"), ["ci", "--colors=off", "--error-on-warnings", "--max-diagnostics=40", "."]) },
  { name: "unused files, exports, dependencies", run: () => runTool(bin("knip"), ["--no-progress"]) },
  { name: "README's table of settings", run: checkReadme },
];

async function report({ name, run }: Check): Promise<Outcome> {
  const begin = performance.now();
  const outcome = await run().catch((error: Error): Outcome => ({ result: "failed", text: error.stack ?? error.message }));
  const seconds = ((performance.now() - begin) / 1000).toFixed(1);
  const mark = { passed: "ok  ", failed: "FAIL", skipped: "skip" }[outcome.result];
  const why = outcome.result === "skipped" ? `: ${outcome.text}` : "";
  process.stdout.write(`${mark} ${name}${why} (${seconds} s)\n`);
  if (outcome.result === "failed") process.stdout.write(`${outcome.text.trimEnd().replaceAll(/^/gm, "     ")}\n`);
  return outcome;
}

async function main(): Promise<void> {
  const copy = mkdtempSync(path.join(tmpdir(), "carrel-check-"));
  try {
    const outcomes = await Promise.all([...contractChecks(copy), ...sourceChecks].map(report));
    const count = (result: Outcome["result"]) => outcomes.filter((outcome) => outcome.result === result).length;
    process.stdout.write(`checks: ${count("passed")} ok, ${count("failed")} failed, ${count("skipped")} skipped\n`);
    if (count("failed") > 0) process.exitCode = 1;
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
}

await main();
