import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { derivePattern } from "../../../server/channel/permissions/derive.ts";
import { decide, type PermissionRules, patternMatches } from "../../../server/channel/permissions/engine.ts";
import { longestCommand } from "../../../server/channel/permissions/lexer.ts";
import { readStages } from "../../../server/channel/permissions/stages.ts";
import { anyCommand, approvalText, brokenCommand, denialText, simpleCommand, wrapperText } from "./commands.ts";

const rank = { deny: 0, ask: 1, allow: 2 };

const rulesOf: fc.Arbitrary<PermissionRules> = fc.record({
  allowed: fc.array(approvalText, { maxLength: 4 }),
  denied: fc.array(
    denialText.filter((text) => text !== "Bash"),
    { maxLength: 2 },
  ),
  sessionPatterns: fc.array(approvalText, { maxLength: 1 }),
  mode: fc.constantFrom("acceptEdits" as const, "plan" as const, "bypassPermissions" as const),
});

const commandOf = fc.oneof(
  { weight: 2, arbitrary: anyCommand },
  { weight: 1, arbitrary: brokenCommand },
  { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 40 }) },
);

function rankOf(rules: PermissionRules, command: string): number {
  return rank[decide(rules, "Bash", { command }).behavior];
}

describe("for any rules and any command", { timeout: 60_000 }, () => {
  it("adding a denial never allows more", () => {
    fc.assert(
      fc.property(
        rulesOf,
        denialText,
        commandOf,
        (rules, denial, command) => rankOf({ ...rules, denied: [...rules.denied, denial] }, command) <= rankOf(rules, command),
      ),
      { numRuns: 30_000 },
    );
  });

  it("removing an approval never allows more", () => {
    fc.assert(
      fc.property(
        rulesOf,
        approvalText,
        commandOf,
        (rules, approval, command) => rankOf(rules, command) <= rankOf({ ...rules, allowed: [...rules.allowed, approval] }, command),
      ),
      { numRuns: 20_000 },
    );
  });

  it("adding a stage, before or after, never allows more", () => {
    const between = fc.constantFrom("; ", " && ", " || ", " | ", " & ", "\n", " |& ");
    fc.assert(
      fc.property(rulesOf, simpleCommand, between, anyCommand, fc.boolean(), (rules, command, separator, more, first) => {
        const longer = rankOf(rules, first ? `${command}${separator}${more}` : `${more}\n${command}`);
        const alone = rankOf(rules, command);
        // Behind text that cannot be read to its end, a denied command is out of sight: a person decides then.
        return !first && readStages(more).unreadable !== undefined ? longer <= Math.max(alone, rank.ask) : longer <= alone;
      }),
      { numRuns: 25_000 },
    );
  });

  it("wrapping a command never changes the verdict", () => {
    fc.assert(
      fc.property(rulesOf, fc.oneof(wrapperText, fc.constantFrom("DEBUG=1 ", "A='x y' B= ")), simpleCommand, (rules, wrapper, command) => {
        // Behind a program an assignment whose value is not fixed may name a file, so it asks instead.
        fc.pre(!/[A-Z]\+?=["$]/.test(command));
        return rankOf(rules, wrapper + command) === rankOf(rules, command);
      }),
      { numRuns: 25_000 },
    );
  });

  it("the pattern derived from a call matches that call", () => {
    fc.assert(
      fc.property(commandOf, (command) => {
        const pattern = derivePattern("Bash", { command });
        return pattern === undefined || patternMatches(pattern, "Bash", { command });
      }),
      { numRuns: 10_000 },
    );
  });

  it("no text of the shell's special characters makes it throw or approve by an unrelated pattern", () => {
    const noise = fc
      .array(
        fc.constantFrom(
          "'",
          '"',
          "\\",
          "$",
          "`",
          "(",
          ")",
          "{",
          "}",
          "<",
          ">",
          "|",
          "&",
          ";",
          "\n",
          " ",
          "#",
          "!",
          "[",
          "]",
          "=",
          "a",
          "rm",
          "<<E",
          "E",
          "\t",
        ),
        { maxLength: 30 },
      )
      .map((parts) => parts.join(""));
    fc.assert(
      fc.property(
        noise,
        (command) =>
          decide({ allowed: ["Bash(never:*)"], denied: [], sessionPatterns: [], mode: "acceptEdits" }, "Bash", { command }).behavior ===
          "ask",
      ),
      { numRuns: 10_000 },
    );
  });
});

describe("a long command", () => {
  const rules: PermissionRules = { allowed: ["Bash(ls:*)"], denied: ["Bash(rm:*)"], sessionPatterns: [], mode: "bypassPermissions" };

  it("of more than the limit is for a person, under bypassPermissions too when something is denied", () => {
    expect(decide(rules, "Bash", { command: `ls ${"x".repeat(longestCommand)}` }).behavior).toBe("ask");
  });

  it.each([
    "'",
    '"',
    "\\",
    "$(",
    "`",
    "${",
    "(",
    "{",
    "<<E\n",
    "ls;",
    "a=",
    "a[",
    "$'",
    "\n",
    "[[ ",
    "! ",
    "time ",
    "nice -5 ",
    "A=1 ",
    "timeout 5 ",
    "if ",
    "<(",
    '"$(',
    "#\n",
  ])("made of %j is decided in time that grows with its length only", (piece) => {
    const command = piece.repeat(Math.floor(longestCommand / piece.length));
    const started = performance.now();
    expect(decide(rules, "Bash", { command }).behavior).not.toBe("deny");
    expect(performance.now() - started).toBeLessThan(500);
  });
});
