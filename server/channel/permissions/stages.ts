import { type RawStage, readCommand } from "./lexer.ts";
import { evaluates, keywordHides, namedBy, openingKeywords, otherKeywords, steersCommands } from "./names.ts";
import type { Word } from "./word.ts";
import { unwrap } from "./wrappers.ts";

/** One simple command of a compound one, ready to be compared with patterns. */
export type Stage = {
  /** What is run: keywords, assignments and wrappers taken off. */
  words: readonly Word[];
  /** The same before each wrapper was taken off, outermost first: a denial may name a wrapper. */
  outer: readonly (readonly Word[])[];
  /** A dangerous construct of the grammar: matched by neither list. */
  danger: string | undefined;
  /** Why it may run something that is not written here. No pattern approves it; denials still look at its words. */
  opaque: string | undefined;
  /** Part of a loop or condition: what it runs is in sight of denials, but no pattern approves it (the grammar has none). */
  keyword: string | undefined;
  /** More words follow at run time (`xargs`). */
  appended: boolean;
  /** How many words a pattern needs to name what is run, when the command runs another. */
  namedBy: number | undefined;
};

export type Stages = { stages: readonly Stage[]; unreadable: string | undefined };

export function readStages(command: string): Stages {
  const { stages, unreadable } = readCommand(command);
  return { stages: stages.map(toStage), unreadable };
}

/** Nobody writes more in front of a command; it bounds the time of a decision. */
const mostLayers = 64;

type Peeling = {
  words: Word[];
  outer: Word[][];
  opaque: string | undefined;
  keyword: string | undefined;
  appended: boolean;
  external: boolean;
};

function toStage(raw: RawStage): Stage {
  const peeling: Peeling = { words: raw.words, outer: [], opaque: undefined, keyword: undefined, appended: false, external: false };
  let layers = 0;
  while (peelKeyword(peeling) || peelAssignment(peeling) || peelWrapper(peeling)) {
    layers += 1;
    if (layers < mostLayers) continue;
    peeling.opaque ??= "too many wrappers and assignments";
    break;
  }
  const { words } = peeling;
  const first = words[0];
  if (first && !first.fixed) peeling.opaque ??= "a command name that is not fixed";
  if (first && otherKeywords.has(first.value) && !first.quoted) {
    peeling.keyword ??= keywordText(first.value);
    if (keywordHides(words)) peeling.opaque ??= keywordText(first.value);
  }
  peeling.opaque ??= evaluates(words);
  return {
    words,
    outer: peeling.outer,
    danger: raw.danger,
    opaque: peeling.opaque,
    keyword: peeling.keyword,
    appended: peeling.appended,
    namedBy: namedBy(words, peeling.appended),
  };
}

/** Denials look behind `if`, `then`, `!` and the like, because bash runs what follows; patterns never approve it. */
function peelKeyword(peeling: Peeling): boolean {
  const [first, ...rest] = peeling.words;
  if (!first || first.quoted || !openingKeywords.has(first.value)) return false;
  peeling.keyword ??= keywordText(first.value);
  peeling.words = rest;
  return true;
}

function keywordText(value: string): string {
  return `the shell's own word ${value}`;
}

function peelAssignment(peeling: Peeling): boolean {
  const [first, ...rest] = peeling.words;
  if (first?.assigns === undefined) return false;
  if (steersCommands(first.assigns)) peeling.opaque ??= `${first.assigns} can change what is run`;
  // A program looks such a word up as a file name: `timeout 5 A=/x` runs the file x of a directory called `A=`.
  if (peeling.external && (first.value.includes("/") || !first.fixed)) peeling.opaque ??= "an assignment that may be a file";
  peeling.words = rest;
  return true;
}

function peelWrapper(peeling: Peeling): boolean {
  const unwrapped = unwrap(peeling.words);
  if (!unwrapped) return false;
  peeling.outer.push(peeling.words);
  peeling.words = unwrapped.rest;
  peeling.opaque ??= unwrapped.doubt;
  peeling.appended ||= unwrapped.appends;
  peeling.external ||= unwrapped.external;
  return true;
}
