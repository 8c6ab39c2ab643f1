// What agents, tools and other people wrote must not steer the terminal: no colours, no cursor, no title, no clipboard.

/** Control characters but newline and tab, and those that reorder what is shown (bidirectional overrides). */
const unsafe = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/**
 * A complete colour or cursor sequence; only these vanish as a whole. Of the others (titles, links) only the control
 * characters go: their text stays visible, because what can hide text can hide a command.
 */
const escapeSequence = /(?:\u001b\[|\u009b)[0-?]{0,32}[ -/]{0,4}[@-~]/g;

/** The beginning of such a sequence at the end of a piece. */
const unfinished = /(?:\u001b|(?:\u001b\[|\u009b)[0-?]{0,32}[ -/]{0,4})$/;

/** Text that is safe to print. */
export function sanitise(text: string): string {
  return text.replace(escapeSequence, "").replace(unsafe, "");
}

/** Sanitises text that comes in pieces: a sequence cut in two is still one. */
export function createSanitiser(): (piece: string) => string {
  let held = "";
  return (piece) => {
    const text = held + piece;
    held = unfinished.exec(text)?.[0] ?? "";
    return sanitise(held === "" ? text : text.slice(0, -held.length));
  };
}

/** JSON on one line in which every unsafe character is written as an escape, so that it means the same and shows what it is. */
export function safeJson(value: unknown, indent?: number): string {
  return JSON.stringify(value, null, indent).replace(unsafe, (character) =>
    character === "\n" ? character : `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** At most `length` characters, and `…` where some were left out. */
export function shorten(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length)}…`;
}
