/** A place in a command. `broken` is set once the rest cannot be read; nothing is read after that. */
export type Cursor = { text: string; at: number; broken: string | undefined };

export type Word = {
  /** The word after quote removal; expansions stand as written. */
  value: string;
  /** False when bash may put something else here: a parameter, a file name pattern, `~`, an escape we do not decode. */
  fixed: boolean;
  /** Some part was quoted, so it is no reserved word and, as the end of a here-document, makes the body literal. */
  quoted: boolean;
  /** The variable, when the word has the form of an assignment. */
  assigns: string | undefined;
  /** A construct in it that runs or generates code. */
  danger: string | undefined;
};

/** Deeper nesting is unreadable: nobody writes it by hand, and it bounds the recursion. */
const deepest = 40;

const wordEnds = new Set([" ", "\t", "\n", "|", "&", ";", "(", ")", "<", ">", undefined]);
const plainRun = /[^\s|&;()<>\\'"`$*?[\]{}~]+/y;
const assignment = /([A-Za-z_][A-Za-z0-9_]*)\+?=/y;
const name = /^[A-Za-z_][A-Za-z0-9_]*$/;
const parameter = /\$(?:[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]|\{(?:[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-])\})/y;
const doubleRun = /[^"\\`$]+/y;

export function isBlank(char: string | undefined): boolean {
  return char === " " || char === "\t";
}

export function isWordEnd(char: string | undefined): boolean {
  return wordEnds.has(char);
}

/** Reads the word at the cursor, which stands on its first character. */
export function readWord(cursor: Cursor): Word {
  const word: Word = { value: "", fixed: true, quoted: false, assigns: undefined, danger: undefined };
  const { text } = cursor;
  word.assigns = matchAt(assignment, cursor)?.[1];
  const start = cursor.at;
  let bracket = false;
  let subscript = false;
  while (cursor.broken === undefined && !isWordEnd(text[cursor.at])) {
    const run = matchAt(plainRun, cursor);
    if (run) {
      word.value += run[0];
      cursor.at += run[0].length;
      continue;
    }
    const char = text[cursor.at] ?? "";
    // A bracket alone is a literal (`[ -f x ]`); a pair is a file name pattern or the subscript of an array.
    if (char === "[") {
      bracket = true;
      subscript ||= name.test(text.slice(start, cursor.at));
    } else if (char === "]") subscript = false;
    if (char === "*" || char === "?" || (char === "]" && bracket)) word.fixed = false;
    piece(cursor, word, char);
  }
  // Where an assignment may stand, bash reads `name[` up to its bracket, whatever is between: what it runs begins elsewhere.
  if (subscript && cursor.broken === undefined) unfinished(cursor, "a subscript without its end");
  return word;
}

function piece(cursor: Cursor, word: Word, char: string): void {
  switch (char) {
    case "'":
      return singleQuoted(cursor, word);
    case '"':
      return doubleQuoted(cursor, word);
    case "\\":
      return escaped(cursor, word);
    case "$":
      return dollar(cursor, word);
    case "`":
      word.danger ??= "`…`";
      return skipBackticks(cursor);
    case "{":
      // An empty pair is a plain word (`find -exec … {}`); bash expands and groups nothing there.
      if (cursor.text[cursor.at + 1] !== "}") word.danger ??= "{…}";
      break;
    case "~":
      // Expanded at the start, and after `=` or `:` of an assignment; being careful elsewhere costs nothing.
      word.fixed = false;
      break;
  }
  word.value += char;
  cursor.at += 1;
}

function singleQuoted(cursor: Cursor, word: Word): void {
  const end = cursor.text.indexOf("'", cursor.at + 1);
  if (end < 0) return unfinished(cursor, "a quote without its end");
  word.quoted = true;
  word.value += cursor.text.slice(cursor.at + 1, end);
  cursor.at = end + 1;
}

function escaped(cursor: Cursor, word: Word): void {
  const { text } = cursor;
  const next = text[cursor.at + 1];
  if (next === undefined) return unfinished(cursor, "a backslash at the end");
  if (next === "\n") {
    // Bash removes it before anything else, so inside a word it can make an assignment or a keyword of the pieces.
    if (!isBlank(text[cursor.at + 2]) && text[cursor.at + 2] !== "\n") word.fixed = false;
  } else {
    word.quoted = true;
    word.value += next;
  }
  cursor.at += 2;
}

function dollar(cursor: Cursor, word: Word): void {
  const next = cursor.text[cursor.at + 1];
  if (next === "'") return ansiQuoted(cursor, word);
  if (next === '"') {
    // Translated by the locale: what comes out is not what is written.
    word.fixed = false;
    cursor.at += 1;
    return doubleQuoted(cursor, word);
  }
  takeDollar(cursor, word);
}

function takeDollar(cursor: Cursor, word: Word): void {
  const start = cursor.at;
  const read = readDollar(cursor);
  word.danger ??= read.danger;
  if (read.expands) word.fixed = false;
  word.value += cursor.text.slice(start, cursor.at);
}

/** Moves past what a `$` begins, outside `$'…'` and `$"…"`. */
export function readDollar(cursor: Cursor): { danger: string | undefined; expands: boolean } {
  const { text } = cursor;
  const plain = matchAt(parameter, cursor);
  if (plain) {
    cursor.at += plain[0].length;
    return { danger: undefined, expands: true };
  }
  const next = text[cursor.at + 1];
  if (next === "\\" && text[cursor.at + 2] === "\n") unfinished(cursor, "a line continuation inside an expansion");
  cursor.at += 1;
  if (next === "(") {
    skipGroup(cursor, ")");
    return { danger: "$(…)", expands: true };
  }
  // Operators inside braces nest anything, and offsets and subscripts are arithmetic, which runs `$(…)` found in a variable's value.
  if (next === "{") {
    skipGroup(cursor, "}");
    return { danger: "${…}", expands: true };
  }
  return { danger: next === "[" ? "$[…]" : undefined, expands: next === "[" };
}

function doubleQuoted(cursor: Cursor, word: Word): void {
  const { text } = cursor;
  word.quoted = true;
  cursor.at += 1;
  while (cursor.broken === undefined) {
    const run = matchAt(doubleRun, cursor);
    if (run) {
      word.value += run[0];
      cursor.at += run[0].length;
    }
    const char = text[cursor.at];
    if (char === undefined) return unfinished(cursor, "a quote without its end");
    if (char === '"') {
      cursor.at += 1;
      return;
    }
    if (char === "$") takeDollar(cursor, word);
    else if (char === "`") {
      word.danger ??= "`…`";
      skipBackticks(cursor);
    } else if (char === "\\") escapedInDouble(cursor, word);
  }
}

function escapedInDouble(cursor: Cursor, word: Word): void {
  const next = cursor.text[cursor.at + 1] ?? "";
  if ('$`"\\'.includes(next)) word.value += next;
  else if (next !== "\n") word.value += `\\${next}`;
  cursor.at += 2;
}

const simpleEscapes: ReadonlyMap<string, string> = new Map([
  ["n", "\n"],
  ["t", "\t"],
  ["\\", "\\"],
  ["'", "'"],
  ['"', '"'],
]);

function ansiQuoted(cursor: Cursor, word: Word): void {
  const { text } = cursor;
  word.quoted = true;
  cursor.at += 2;
  while (cursor.at < text.length) {
    const char = text[cursor.at] ?? "";
    cursor.at += 1;
    if (char === "'") return;
    if (char !== "\\") {
      word.value += char;
      continue;
    }
    const next = text[cursor.at] ?? "";
    const known = simpleEscapes.get(next);
    // Hexadecimal, octal, Unicode and control escapes can spell any name: what we do not decode, we do not know.
    if (known === undefined) word.fixed = false;
    word.value += known ?? `\\${next}`;
    cursor.at += 1;
  }
  unfinished(cursor, "a quote without its end");
}

function skipBackticks(cursor: Cursor): void {
  const { text } = cursor;
  cursor.at += 1;
  while (cursor.at < text.length) {
    const char = text[cursor.at];
    cursor.at += char === "\\" ? 2 : 1;
    if (char === "`") return;
  }
  unfinished(cursor, "a backtick without its end");
}

/**
 * Moves past a group whose opening character is at the cursor. What is inside is already a danger: a wrong guess at its end can
 * turn a denial into a question, never either of them into an approval.
 */
export function skipGroup(cursor: Cursor, close: ")" | "}", depth = 0): void {
  const { text } = cursor;
  if (depth > deepest) return unfinished(cursor, "nesting too deep");
  cursor.at += 1;
  while (cursor.at < text.length && cursor.broken === undefined) {
    const char = text[cursor.at] ?? "";
    if (char === close) {
      cursor.at += 1;
      return;
    }
    skipInGroup(cursor, char, close, depth);
  }
  unfinished(cursor, "a bracket without its end");
}

function skipInGroup(cursor: Cursor, char: string, close: ")" | "}", depth: number): void {
  const { text } = cursor;
  if (char === "\\") cursor.at += 2;
  else if (char === "'") {
    const end = text.indexOf("'", cursor.at + 1);
    cursor.at = end < 0 ? text.length : end + 1;
  } else if (char === '"') skipDouble(cursor, depth);
  else if (char === "`") skipBackticks(cursor);
  else if (char === "(") skipGroup(cursor, ")", depth + 1);
  else if (char === "$" && text[cursor.at + 1] === "{") {
    cursor.at += 1;
    skipGroup(cursor, "}", depth + 1);
  } else if (char === "#" && close === ")" && /[\s;(]/.test(text[cursor.at - 1] ?? "")) {
    const end = text.indexOf("\n", cursor.at);
    cursor.at = end < 0 ? text.length : end;
  } else cursor.at += 1;
}

function skipDouble(cursor: Cursor, depth: number): void {
  const { text } = cursor;
  cursor.at += 1;
  while (cursor.at < text.length && cursor.broken === undefined) {
    const char = text[cursor.at];
    const opens = char === "$" ? text[cursor.at + 1] : undefined;
    if (opens === "(" || opens === "{") {
      cursor.at += 1;
      skipGroup(cursor, opens === "(" ? ")" : "}", depth + 1);
    } else if (char === "`") skipBackticks(cursor);
    else {
      cursor.at += char === "\\" ? 2 : 1;
      if (char === '"') return;
    }
  }
}

function matchAt(expression: RegExp, cursor: Cursor): RegExpExecArray | null {
  expression.lastIndex = cursor.at;
  return expression.exec(cursor.text);
}

function unfinished(cursor: Cursor, reason: string): void {
  cursor.broken ??= reason;
}
