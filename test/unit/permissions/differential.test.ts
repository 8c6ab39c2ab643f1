import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { decide, type PermissionRules } from "../../../server/channel/permissions/engine.ts";
import { readStages } from "../../../server/channel/permissions/stages.ts";
import { anyCommand, brokenCommand } from "./commands.ts";
import { type Execution, openRecordingShell, type RecordingShell } from "./recording-shell.ts";

/** How many random commands bash runs; CARREL_TEST_SHELL_COMMANDS=20000 is the long form. */
const long = process.env["CARREL_TEST_SHELL_COMMANDS"];
const total = Number(long ?? 3_000);
/** The long form looks for what nobody knows yet; the short one says whether what is known still holds. */
const seed = Number(process.env["CARREL_TEST_SEED"] ?? (long === undefined ? 20_261_120 : Date.now() % 1_000_000_000));
const batch = 250;

const wrappers = new Set(["timeout", "time", "nice", "nohup", "stdbuf", "xargs"]);
const approvals = ["Bash(qls:*)", "Bash(qcat:*)", "Bash(qvcs status:*)"];
const denials = ["Bash(qrm:*)", "Bash(qvcs push:*)"];
const runners = ["env", "bash", "sh", "eval", "exec", "command", "builtin", "xargs", "coproc", "set", "E", "true"].map(
  (name) => `Bash(${name}:*)`,
);

const rules = (allowed: readonly string[], denied: readonly string[], mode: PermissionRules["mode"]): PermissionRules => ({
  allowed,
  denied,
  sessionPatterns: [],
  mode,
});

/** Rules whose approval is by scoped patterns: every command that ran must begin with one of them. */
const scoped = [
  rules(approvals, [], "acceptEdits"),
  rules([...approvals, ...runners], [], "plan"),
  rules([...approvals, "Bash(qvcs:*)"], denials, "acceptEdits"),
];
/** Rules that approve by breadth: nothing denied may have run. */
const broad = [
  rules([], denials, "bypassPermissions"),
  rules(["Bash"], denials, "acceptEdits"),
  rules(["Bash(qvcs:*)", "Bash(qrm:*)", ...approvals, ...runners], denials, "acceptEdits"),
];

function begins(words: readonly string[], patterns: readonly string[]): boolean {
  return patterns.some((pattern) => {
    const prefix = pattern.slice("Bash(".length, -":*)".length).split(" ");
    return prefix.every((word, index) => words[index] === word);
  });
}

/** The names the engine saw as commands. */
function seenIn(command: string): Set<string | undefined> {
  return new Set(readStages(command).stages.flatMap((stage) => [stage.words[0]?.value, ...stage.outer.map((words) => words[0]?.value)]));
}

type Tally = { commands: number; ran: number; approvedAndRan: number; deniedRan: number; problems: string[] };

function check(command: string, execution: Execution, tally: Tally): void {
  tally.commands += 1;
  if (execution.length === 0) return;
  tally.ran += 1;
  for (const each of scoped) {
    if (decide(each, "Bash", { command }).behavior !== "allow") continue;
    tally.approvedAndRan += 1;
    const seen = seenIn(command);
    const stray = execution.filter(
      (words) => !seen.has(words[0]) || (!wrappers.has(words[0] ?? "") && !begins(words, each.allowed)) || begins(words, each.denied),
    );
    if (stray.length > 0)
      tally.problems.push(`approved by ${each.allowed.join(" ")}: ${JSON.stringify(command)} ran ${JSON.stringify(stray)}`);
  }
  const forbidden = execution.filter((words) => begins(words, denials));
  if (forbidden.length === 0) return;
  tally.deniedRan += 1;
  for (const each of broad) {
    if (decide(each, "Bash", { command }).behavior === "allow")
      tally.problems.push(`allowed under ${JSON.stringify(each)}: ${JSON.stringify(command)} ran ${JSON.stringify(forbidden)}`);
  }
}

describe("what a real bash runs", () => {
  let shell: RecordingShell;
  beforeAll(async () => {
    shell = await openRecordingShell();
  });
  afterAll(() => shell.close());

  it(`was seen by the engine, in ${total} random commands (seed ${seed})`, { timeout: total * 60 + 10_000 }, async () => {
    const tally: Tally = { commands: 0, ran: 0, approvedAndRan: 0, deniedRan: 0, problems: [] };
    const commands = fc.sample(fc.oneof({ weight: 3, arbitrary: anyCommand }, { weight: 1, arbitrary: brokenCommand }), {
      numRuns: total,
      seed,
    });
    for (let from = 0; from < commands.length; from += batch) {
      const part = commands.slice(from, from + batch);
      const executions = await shell.run(part);
      for (const [index, command] of part.entries()) check(command, executions[index] ?? [], tally);
    }
    expect(tally.problems).toEqual([]);
    expect(tally.commands).toBe(total);
    // The comparison must have had something to compare.
    expect(tally.ran).toBeGreaterThan(total / 2);
    expect(tally.approvedAndRan).toBeGreaterThan(total / 20);
    expect(tally.deniedRan).toBeGreaterThan(total / 10);
    if (process.env["CARREL_TEST_SHELL_COMMANDS"] !== undefined)
      process.stdout.write(`${JSON.stringify({ ...tally, problems: 0, seed })}\n`);
  });
});
