import { readdirSync, readFileSync } from "node:fs";
import type { JsonObject } from "@bufbuild/protobuf";
import type { PermissionModeWord, PermissionRules } from "../../../server/channel/permissions/engine.ts";

/**
 * One expected verdict. The files in test/vectors/permissions hold them as text:
 *
 *     rules +Bash(git:*) -Bash(rm:*) +session:Read mode=plan     what follows is decided by these (mode: acceptEdits unless said)
 *       allow git status                                         a shell command, as written
 *       deny  "ls\nrm x"                                         a line that is a JSON string as a whole is read as one
 *       ask   @Write {"file_path":"x"}                           another tool and its input
 *
 * `#` at the start of a line is a comment.
 */
type Vector = { file: string; line: number; rules: PermissionRules; tool: string; input: JsonObject; expected: string };

const folder = new URL("../../vectors/permissions/", import.meta.url);

export function readVectors(): Vector[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith(".txt"))
    .flatMap(readVectorFile);
}

function readVectorFile(file: string): Vector[] {
  const vectors: Vector[] = [];
  let rules: PermissionRules = { allowed: [], denied: [], sessionPatterns: [], mode: "acceptEdits" };
  for (const [index, text] of readFileSync(new URL(file, folder), "utf8").split("\n").entries()) {
    const line = index + 1;
    if (/^\s*(?:#|$)/.test(text)) continue;
    if (text.startsWith("rules")) {
      rules = readRules(text);
      continue;
    }
    const match = /^ {2}(allow|deny|ask) +(.*)$/.exec(text);
    if (!match) throw new Error(`${file}:${line}: not a vector`);
    vectors.push({ file, line, rules, ...readCall(match[2] ?? ""), expected: match[1] ?? "" });
  }
  return vectors;
}

function readRules(text: string): PermissionRules {
  const lists: Record<string, string[]> = { "+": [], "-": [], "+session:": [] };
  for (const [, list = "", pattern = ""] of text.matchAll(/ (\+session:|\+|-)(Bash\([^)]*?:\*\)|\S+)/g)) lists[list]?.push(pattern);
  const mode = / mode=(\w+)/.exec(text)?.[1] ?? "acceptEdits";
  return {
    allowed: lists["+"] ?? [],
    denied: lists["-"] ?? [],
    sessionPatterns: lists["+session:"] ?? [],
    mode: mode as PermissionModeWord,
  };
}

function readCall(text: string): { tool: string; input: JsonObject } {
  const other = /^@(\w[\w.-]*) (\{.*\})$/.exec(text);
  if (other) return { tool: other[1] ?? "", input: JSON.parse(other[2] ?? "") as JsonObject };
  return { tool: "Bash", input: { command: isJsonString(text) ? (JSON.parse(text) as string) : text } };
}

function isJsonString(text: string): boolean {
  return /^"(?:[^"\\]|\\.)*"$/.test(text);
}
