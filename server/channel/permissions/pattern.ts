import { readCommand } from "./lexer.ts";
import { baseName, isShellKeyword } from "./names.ts";
import type { Stage } from "./stages.ts";
import { canonicalTool } from "./tools.ts";
import type { Word } from "./word.ts";

export type Pattern =
  /** Every call of one tool. */
  | { kind: "tool"; tool: string }
  /** Shell commands that begin with these words. */
  | { kind: "bash"; prefix: readonly PrefixWord[] }
  /** Every tool of an MCP server, or one: the name, and any name that goes on after `__`. */
  | { kind: "mcp"; name: string };

type PrefixWord = Pick<Word, "value" | "fixed">;

const toolName = /^[A-Za-z][A-Za-z0-9_]*$/;
const mcpName = /^mcp__[A-Za-z0-9.-][A-Za-z0-9_.-]*$/;
const plainPrefix = /^[A-Za-z0-9_./@%,:-]+(?: [A-Za-z0-9_./@%,:+-]+)*$/;

/** Reads a pattern as people write it. Undefined when it is not in the grammar: an unread rule must be refused, never skipped. */
export function parsePattern(text: string): Pattern | undefined {
  if (text.startsWith("Bash(")) return text.endsWith(":*)") ? parsePrefix(text.slice("Bash(".length, -":*)".length)) : undefined;
  if (!text.startsWith("mcp__")) return toolName.test(text) ? { kind: "tool", tool: canonicalTool(text) } : undefined;
  // The agent sends a server's name with every character outside this set replaced, so the pattern is read the same way.
  return mcpName.test(text) ? { kind: "mcp", name: text.replace(/[^A-Za-z0-9_-]/g, "_") } : undefined;
}

/** A prefix is read like a command; one that no stage could ever begin with is refused, because it would guard nothing. */
function parsePrefix(prefix: string): Pattern | undefined {
  if (plainPrefix.test(prefix)) {
    const words = prefix.split(" ").map((value) => ({ value, fixed: true }));
    return isShellKeyword(words[0]?.value ?? "") ? undefined : { kind: "bash", prefix: words };
  }
  if (prefix !== prefix.trim() || prefix.includes("\n")) return undefined;
  const { stages, unreadable } = readCommand(prefix);
  const [stage, ...more] = stages;
  if (!stage || unreadable !== undefined || more.length > 0 || stage.danger !== undefined) return undefined;
  const { words } = stage;
  const [first] = words;
  if (!first?.fixed || first.assigns !== undefined || (!first.quoted && isShellKeyword(first.value))) return undefined;
  // Redirections, separators and comments are not part of any stage's words: text that vanished in reading would never be compared.
  return /[|&;<>#]/.test(unquotedParts(prefix)) ? undefined : { kind: "bash", prefix: words.map(({ value, fixed }) => ({ value, fixed })) };
}

function unquotedParts(text: string): string {
  return text.replace(/'[^']*'|"(?:[^"\\]|\\[^])*"|\\[^]/g, "");
}

/** Whether a pattern that is no shell pattern names this tool. Names are case-sensitive. */
export function namesTool(pattern: Pattern, tool: string): boolean {
  if (pattern.kind === "tool") return pattern.tool === canonicalTool(tool);
  return pattern.kind === "mcp" && (tool === pattern.name || tool.startsWith(`${pattern.name}__`));
}

function startsWith(words: readonly Word[], prefix: readonly PrefixWord[]): boolean {
  return (
    words.length >= prefix.length && prefix.every((each, index) => each.value === words[index]?.value && each.fixed === words[index].fixed)
  );
}

/** Whether an approval of these words reaches this stage for certain. */
export function covers(prefix: readonly PrefixWord[], stage: Stage): boolean {
  if (stage.danger !== undefined || stage.opaque !== undefined || stage.keyword !== undefined) return false;
  return startsWith(stage.words, prefix) && prefix.length >= (stage.namedBy ?? 0);
}

/** Whether a denial of these words reaches this stage: "perhaps" when what bash will run is not written in the command. */
export function denies(prefix: readonly PrefixWord[], stage: Stage): "yes" | "perhaps" | "no" {
  if (stage.danger !== undefined) return "perhaps";
  if (startsWith(stage.words, prefix) || stage.outer.some((words) => startsWith(words, prefix))) return "yes";
  return mayBegin(prefix, stage) || mayRunInside(prefix, stage) ? "perhaps" : "no";
}

function mayBegin(prefix: readonly PrefixWord[], stage: Stage): boolean {
  for (const [index, each] of prefix.entries()) {
    const word = stage.words[index];
    if (!word) return index > 0 && stage.appended;
    // It may expand to the denied word, to several words, or to none.
    if (!word.fixed) return true;
    const same = word.value === each.value || (index === 0 && word.value.includes("/") && baseName(word.value) === each.value);
    if (!same) return false;
  }
  // Only reached through a path (`/bin/rm`): the grammar does not match it, but it is surely meant.
  return true;
}

function mayRunInside(prefix: readonly PrefixWord[], stage: Stage): boolean {
  const name = prefix[0]?.value;
  if (stage.namedBy === undefined) return false;
  return stage.words.some((word, index) => index > 0 && (!word.fixed || /\s/.test(word.value) || baseName(word.value) === name));
}
