import { parseBody } from "./directive-words.ts";
import type { Step } from "./steps.ts";

/** A directive that was meant but cannot be obeyed; the message says what is wrong with it. */
export class DirectiveError extends Error {}

const words = ["text", "think", "tool", "subagent", "ask", "slow", "pause", "status", "error", "cut", "hang", "usage", "stop"] as const;
export type DirectiveWord = (typeof words)[number];

const opening = new RegExp(String.raw`\[\[(\+?)(${words.join("|")})(?=\s|\]\])`, "y");

interface Opening {
  joined: boolean;
  word: DirectiveWord;
  bodyAt: number;
}

function openingAt(source: string, at: number): Opening | undefined {
  opening.lastIndex = at;
  const match = opening.exec(source);
  if (!match) return undefined;
  return { joined: match[1] === "+", word: match[2] as DirectiveWord, bodyAt: opening.lastIndex };
}

/** Where a JSON object that starts at `at` ends: brackets inside its strings do not count. */
function jsonEnd(source: string, at: number): number {
  let depth = 0;
  let quoted = false;
  for (let index = at; index < source.length; index++) {
    const char = source[index];
    if (quoted) {
      if (char === "\\") index++;
      else if (char === '"') quoted = false;
    } else if (char === '"') quoted = true;
    else if (char === "{") depth++;
    else if (char === "}" && --depth === 0) return index + 1;
  }
  throw new DirectiveError("its JSON does not end");
}

/**
 * Where the body of a directive ends (the index of its closing brackets). Directives nest, so that
 * a sub-agent's prompt can carry its own.
 */
function bodyEnd(source: string, start: number, word: DirectiveWord): number {
  const object = /^\s+(?:[\w-]+\s+)?(?=\{)/.exec(source.slice(start, start + 200));
  const json = object && ["tool", "ask", "usage"].includes(word);
  let depth = 1;
  for (let index = json ? jsonEnd(source, start + object[0].length) : start; index < source.length; ) {
    const nested = openingAt(source, index);
    if (nested) index = bodyEnd(source, nested.bodyAt, nested.word) + 2;
    else if (source.startsWith("[[", index)) [depth, index] = [depth + 1, index + 2];
    else if (!source.startsWith("]]", index)) index++;
    else if (--depth === 0) return index;
    else index += 2;
  }
  throw new DirectiveError("its closing brackets are missing");
}

/**
 * The steps that the directives of a prompt ask for, in order; undefined when it carries none.
 * Text around the directives is ignored, and so are double brackets around any other word.
 * Throws `DirectiveError` naming the directive at fault.
 */
export function parseDirectives(prompt: string): Step[] | undefined {
  const steps: Step[] = [];
  let found = false;
  for (let index = prompt.indexOf("[["); index !== -1; index = prompt.indexOf("[[", index)) {
    const directive = openingAt(prompt, index);
    if (!directive) {
      index += 2;
      continue;
    }
    found = true;
    const shown = prompt.slice(index, index + 60);
    try {
      const end = bodyEnd(prompt, directive.bodyAt, directive.word);
      add(steps, parseBody(directive.word, prompt.slice(directive.bodyAt, end).trim()), directive.joined);
      index = end + 2;
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new DirectiveError(`${shown}: ${reason}`, { cause });
    }
  }
  return found ? steps : undefined;
}

function add(steps: Step[], parsed: Step[], joined: boolean): void {
  if (!joined) {
    steps.push(...parsed);
    return;
  }
  const last = steps.at(-1);
  const [first] = parsed;
  if (last?.do !== "tools" || first?.do !== "tools") {
    throw new DirectiveError("+ joins a tool call to the tool call directly before it");
  }
  last.calls.push(...first.calls);
}
