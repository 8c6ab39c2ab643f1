import type { Word } from "./word.ts";

/** Options of a wrapper: those that take no value, and those whose value is the rest of the word or the next word. */
type Wrapper = {
  flags: RegExp;
  valued: RegExp;
  /** The value is in the same word. */
  joined: RegExp;
  /** An operand before the command. */
  operand: RegExp | undefined;
};

const never = /^(?!)/;

const wrappers: ReadonlyMap<string, Wrapper> = new Map([
  [
    "timeout",
    {
      flags: /^(?:-[fpv]+|--foreground|--preserve-status|--verbose)$/,
      valued: /^(?:-[fpv]*[ks]|--kill-after|--signal)$/,
      joined: /^(?:-[fpv]*[ks].+|--kill-after=.*|--signal=.*)$/,
      operand: /^[0-9]*\.?[0-9]+[smhd]?$/,
    },
  ],
  ["nice", { flags: /^--?[0-9]+$/, valued: /^(?:-n|--adjustment)$/, joined: /^(?:-n.+|--adjustment=.*)$/, operand: undefined }],
  ["nohup", { flags: never, valued: never, joined: never, operand: undefined }],
  [
    "stdbuf",
    {
      flags: never,
      valued: /^(?:-[ioe]|--input|--output|--error)$/,
      joined: /^(?:-[ioe].+|--(?:input|output|error)=.*)$/,
      operand: undefined,
    },
  ],
  // The reserved word knows only -p; the program of that name has more, and then it is not certain which of the two runs.
  ["time", { flags: /^-p$/, valued: never, joined: never, operand: undefined }],
  // Only bare: with options, what it builds and how often is its own affair, and it is a command like any other.
  ["xargs", { flags: never, valued: never, joined: never, operand: undefined }],
]);

type Unwrapped = {
  /** The wrapped command's words; may be empty. */
  rest: Word[];
  /** Why it is not certain where the wrapped command begins. */
  doubt: string | undefined;
  /** The wrapper adds words of its own to the end. */
  appends: boolean;
  /** The wrapper is a program, so what follows is looked up as a file, never as an assignment or builtin. */
  external: boolean;
};

/** Takes one leading wrapper off. Undefined when there is none. */
export function unwrap(words: readonly Word[]): Unwrapped | undefined {
  const name = words[0]?.fixed === true ? words[0].value : "";
  const wrapper = wrappers.get(name);
  if (!wrapper) return undefined;
  const options = skipOptions(words, wrapper);
  const isOption = words[options.at]?.value.startsWith("-") === true && !options.ended;
  if (name === "xargs" && (isOption || options.at > 1)) return undefined;
  if (isOption) return { rest: [], doubt: `an option of ${name} that is not known`, appends: false, external: true };
  let at = options.at;
  let doubt = words.slice(0, at).some((word) => !word.fixed) ? `an argument of ${name} that is not fixed` : undefined;
  // To the reserved word a quoted option is no option but the command: `time -\p ls` runs `-p`.
  if (name === "time" && words.slice(1, at).some((word) => word.quoted)) doubt ??= "a quoted option of time";
  if (wrapper.operand && at < words.length) {
    if (!wrapper.operand.test(words[at]?.value ?? "")) doubt ??= `an argument of ${name} that is not understood`;
    at += 1;
  }
  return { rest: words.slice(at), doubt, appends: name === "xargs", external: name !== "time" || words[0]?.quoted === true };
}

function skipOptions(words: readonly Word[], wrapper: Wrapper): { at: number; ended: boolean } {
  let at = 1;
  while (at < words.length) {
    const value = words[at]?.value ?? "";
    if (value === "--") return { at: at + 1, ended: true };
    if (wrapper.flags.test(value) || wrapper.joined.test(value)) at += 1;
    else if (wrapper.valued.test(value)) at += 2;
    else break;
  }
  return { at: Math.min(at, words.length), ended: false };
}
