import type { JsonObject } from "@bufbuild/protobuf";
import { covers, denies, namesTool, type Pattern, parsePattern } from "./pattern.ts";
import { readStages, type Stages } from "./stages.ts";
import { canonicalTool, editTools, personTools, readingTools, shellTextOf } from "./tools.ts";

export type PermissionModeWord = "acceptEdits" | "plan" | "bypassPermissions";

export type PermissionRules = {
  allowed: readonly string[];
  denied: readonly string[];
  /** Patterns a person approved for the rest of the session; they count as allowed. */
  sessionPatterns: readonly string[];
  mode: PermissionModeWord;
};

export type Verdict =
  /** `by`: the patterns that allowed it, or the mode. */
  | { behavior: "allow"; by: string }
  /** `by`: the pattern. `message` is for the agent. */
  | { behavior: "deny"; by: string; message: string }
  /** `why`: for the person who is asked. */
  | { behavior: "ask"; why: string };

type Rule = { text: string; pattern: Pattern };
type BashRule = { text: string; prefix: Extract<Pattern, { kind: "bash" }>["prefix"] };

type Call = {
  tool: string;
  /** What a shell would run; undefined for a tool that runs no shell. */
  shell: Stages | undefined;
  scopedDenials: readonly BashRule[];
  /** Why a denial may apply without being seen to. Approval by breadth (a bare name, a mode) is then off. */
  doubt: string | undefined;
  /** A denial nobody can read forbids something: until it is corrected, nothing is approved without a person. */
  unreadDenial: string | undefined;
};

/**
 * Decides one tool call: a denial first, then an approval, then the mode. Never throws. Whatever it cannot read, it does not approve.
 */
export function decide(rules: PermissionRules, toolName: string, input: JsonObject): Verdict {
  const { rules: denials, unread } = readRules(rules.denied);
  const shell = readShell(toolName, input);
  const scopedDenials = bashRules(denials);
  const denial = denials.find(({ pattern }) => forbidsTool(pattern, toolName, shell)) ?? hitBy(shell, scopedDenials);
  if (denial) return { behavior: "deny", by: denial.text, message: `The rule ${denial.text} of this session denies this call.` };
  if (personTools.has(toolName)) return { behavior: "ask", why: `${toolName} is for a person to answer` };
  const doubt = unread === undefined ? doubtOf(shell, scopedDenials) : `the rule ${unread} cannot be read`;
  const call: Call = { tool: toolName, shell, scopedDenials, doubt, unreadDenial: unread };
  return byApproval(rules, call) ?? byMode(rules.mode, call);
}

/** A denial of Bash as a whole holds for every tool that runs a shell. */
function forbidsTool(pattern: Pattern, toolName: string, shell: Stages | undefined): boolean {
  return namesTool(pattern, toolName) || (shell !== undefined && namesTool(pattern, "Bash"));
}

function hitBy(shell: Stages | undefined, scopedDenials: readonly BashRule[]): BashRule | undefined {
  if (scopedDenials.length === 0) return undefined;
  for (const stage of shell?.stages ?? []) {
    const hit = scopedDenials.find(({ prefix }) => denies(prefix, stage) === "yes");
    if (hit) return hit;
  }
  return undefined;
}

function readShell(toolName: string, input: JsonObject): Stages | undefined {
  const text = shellTextOf(toolName, input);
  if (text === "unreadable") return { stages: [], unreadable: "a command that is no text" };
  return text && readStages(text.command);
}

function readRules(texts: readonly string[]): { rules: Rule[]; unread: string | undefined } {
  const rules: Rule[] = [];
  let unread: string | undefined;
  for (const text of texts) {
    const pattern = parsePattern(text);
    if (pattern) rules.push({ text, pattern });
    else unread ??= text;
  }
  return { rules, unread };
}

function bashRules(rules: readonly Rule[]): BashRule[] {
  const scoped: BashRule[] = [];
  for (const { text, pattern } of rules) if (pattern.kind === "bash") scoped.push({ text, prefix: pattern.prefix });
  return scoped;
}

function doubtOf(shell: Stages | undefined, scopedDenials: readonly BashRule[]): string | undefined {
  if (!shell || scopedDenials.length === 0) return undefined;
  if (shell.unreadable !== undefined) return shell.unreadable;
  for (const stage of shell.stages) {
    const reason =
      stage.danger ?? stage.opaque ?? (stage.namedBy === undefined ? undefined : `${stage.words[0]?.value} runs another command`);
    if (reason !== undefined) return reason;
    const rule = scopedDenials.find(({ prefix }) => denies(prefix, stage) === "perhaps");
    if (rule) return `the rule ${rule.text} may apply`;
  }
  return undefined;
}

function byApproval(rules: PermissionRules, call: Call): Verdict | undefined {
  const allowed = readRules([...rules.allowed, ...rules.sessionPatterns]).rules;
  const bare = allowed.find(({ pattern }) => namesTool(pattern, call.tool));
  if (bare && call.doubt === undefined) return { behavior: "allow", by: bare.text };
  if (call.tool !== "Bash" || !call.shell || call.unreadDenial !== undefined) return undefined;
  const by = coveredBy(call.shell, bashRules(allowed), call.scopedDenials);
  return by && { behavior: "allow", by: by.join(", ") };
}

/** The patterns that together reach every stage, if they do and no denial may apply. */
function coveredBy(shell: Stages, allowed: readonly BashRule[], scopedDenials: readonly BashRule[]): string[] | undefined {
  if (shell.unreadable !== undefined || shell.stages.length === 0) return undefined;
  const by = new Set<string>();
  for (const stage of shell.stages) {
    const rule = allowed.find(({ prefix }) => covers(prefix, stage));
    if (!rule || scopedDenials.some(({ prefix }) => denies(prefix, stage) !== "no")) return undefined;
    by.add(rule.text);
  }
  return [...by];
}

function byMode(mode: PermissionModeWord, call: Call): Verdict {
  const allow: Verdict = { behavior: "allow", by: mode };
  if (call.doubt !== undefined) return { behavior: "ask", why: call.doubt };
  if (mode === "bypassPermissions") return allow;
  const tool = canonicalTool(call.tool);
  if (mode === "acceptEdits" && editTools.has(tool)) return allow;
  if (mode === "plan" && readingTools.has(tool)) return allow;
  return { behavior: "ask", why: whyAsked(call) };
}

function whyAsked(call: Call): string {
  const reasons = call.shell?.stages.map(({ danger, opaque, keyword }) => danger ?? opaque ?? keyword) ?? [];
  const special = call.shell?.unreadable ?? reasons.find((reason) => reason !== undefined);
  return special ?? `no rule covers this call of ${call.tool}`;
}

/** Whether the pattern, as an approval, reaches this call: every stage of it, where it is a command. */
export function patternMatches(pattern: string, toolName: string, input: JsonObject): boolean {
  const parsed = parsePattern(pattern);
  if (!parsed || personTools.has(toolName)) return false;
  if (parsed.kind !== "bash") return namesTool(parsed, toolName);
  const shell = toolName === "Bash" ? readShell(toolName, input) : undefined;
  return shell !== undefined && coveredBy(shell, [{ text: pattern, prefix: parsed.prefix }], []) !== undefined;
}
