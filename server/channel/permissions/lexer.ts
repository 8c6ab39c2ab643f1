import { isHeredocPlain, type PendingHeredoc, readHeredocBody } from "./heredoc.ts";
import { type Cursor, isBlank, isWordEnd, readWord, skipGroup, type Word } from "./word.ts";

/**
 * Cuts a shell command into stages of words the way bash does, and knows what it does not know.
 *
 * It is a lexer of our own on purpose. A parser recovers from what it cannot read and hands back its best guess; here a guess is a hole.
 * So the language understood is small (words, quotes, plain parameters, redirections, heredocs, comments, separators) and everything else
 * is named as a danger of its stage, or makes the whole command unreadable. Neither can ever be approved by a pattern.
 */

/** One simple command as written: its words without redirections. */
export type RawStage = {
  words: Word[];
  /** A construct that runs or generates code: such a stage is matched by neither list. */
  danger: string | undefined;
};

type CommandText = {
  stages: RawStage[];
  /** Why the command cannot be read whole. `stages` then holds what was certain before that point. */
  unreadable: string | undefined;
};

/** Longer commands go to a person: nobody reviews them by a prefix, and it bounds the time of a decision. In UTF-16 units. */
export const longestCommand = 65_536;

type Lexer = Cursor & {
  stages: RawStage[];
  stage: RawStage;
  /** A stage of only redirections still does something: it creates or truncates files. */
  redirected: boolean;
  heredocs: PendingHeredoc[];
};

// Control characters, blanks that only look like blanks, bidirectional marks, lone surrogates: what a person sees is not what bash reads.
const deceptive =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u00a0\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

export function readCommand(text: string): CommandText {
  if (text.length > longestCommand) return { stages: [], unreadable: `a command of more than ${longestCommand} characters` };
  const lexer: Lexer = { text, at: 0, broken: undefined, stages: [], stage: emptyStage(), redirected: false, heredocs: [] };
  while (lexer.at < text.length && lexer.broken === undefined) step(lexer);
  endStage(lexer);
  if (lexer.heredocs.length > 0) lexer.broken ??= "a here-document without its end";
  return { stages: lexer.stages, unreadable: lexer.broken ?? (deceptive.test(text) ? "a control or look-alike character" : undefined) };
}

function emptyStage(): RawStage {
  return { words: [], danger: undefined };
}

/** Reads one token. The cursor is always at the start of one. */
function step(lexer: Lexer): void {
  const { text } = lexer;
  const char = text[lexer.at] ?? "";
  const next = text[lexer.at + 1];
  if (isBlank(char)) lexer.at += 1;
  else if (char === "\n") endLine(lexer);
  else if (char === "#") skipComment(lexer);
  else if (char === "\\" && next === "\n") lexer.at += 2;
  else if (char === "<" || char === ">" || (char === "&" && next === ">")) redirection(lexer);
  else if (char === "&" || char === "|" || char === ";") separator(lexer, char, next);
  else if (char === "(" || char === ")") parenthesis(lexer, char);
  else word(lexer);
}

function endStage(lexer: Lexer): void {
  const { stage } = lexer;
  if (stage.words.length > 0 || stage.danger !== undefined || lexer.redirected) lexer.stages.push(stage);
  lexer.stage = emptyStage();
  lexer.redirected = false;
}

/** Bash reads the bodies of pending here-documents when it meets the newline that ends their line. */
function endLine(lexer: Lexer): void {
  lexer.at += 1;
  const pending = lexer.heredocs;
  lexer.heredocs = [];
  for (const heredoc of pending) {
    if (lexer.broken !== undefined) break;
    const body = readHeredocBody(lexer, heredoc);
    if (body !== undefined && !heredoc.quoted && !isHeredocPlain(body)) lexer.stage.danger ??= "an expansion in a here-document";
  }
  endStage(lexer);
}

function skipComment(lexer: Lexer): void {
  const end = lexer.text.indexOf("\n", lexer.at);
  lexer.at = end < 0 ? lexer.text.length : end;
}

function separator(lexer: Lexer, char: string, next: string | undefined): void {
  // `;;`, `;&` and `;;&` only live in `case`, whose patterns look like stages and are none.
  if (char === ";" && (next === ";" || next === "&")) lexer.stage.danger ??= "case";
  lexer.at += next === char || (char === "|" && next === "&") || (char === ";" && next === "&") ? 2 : 1;
  endStage(lexer);
}

function parenthesis(lexer: Lexer, char: string): void {
  lexer.stage.danger ??= "(…)";
  if (char === "(") skipGroup(lexer, ")");
  else lexer.at += 1;
}

function word(lexer: Lexer): void {
  const { stage } = lexer;
  const read = readWord(lexer);
  stage.danger ??= read.danger;
  const after = lexer.text[lexer.at];
  const isDescriptor = (after === "<" || after === ">") && !read.quoted && /^[0-9]+$/.test(read.value);
  if (!isDescriptor) stage.words.push(read);
}

const operators = ["<<<", "<<-", "<<", "<&-", ">&-", "<&", "<>", "<", ">>", ">&", ">|", ">", "&>>", "&>"];

function redirection(lexer: Lexer): void {
  const { text } = lexer;
  lexer.redirected = true;
  if (text[lexer.at + 1] === "(") return substitution(lexer);
  const operator = operators.find((each) => text.startsWith(each, lexer.at)) ?? "";
  lexer.at += operator.length;
  // Whole by itself: what touches it is the next word, perhaps the command (`>&-rm x`).
  if (operator.endsWith("&-")) return;
  // A line continuation here can glue two operators together (`<\⏎<E` is a here-document).
  if (text.startsWith("\\\n", lexer.at)) return stop(lexer, "a line continuation inside an operator");
  while (isBlank(text[lexer.at]) || text.startsWith("\\\n", lexer.at)) lexer.at += text[lexer.at] === "\\" ? 2 : 1;
  if ((text[lexer.at] === "<" || text[lexer.at] === ">") && text[lexer.at + 1] === "(") return substitution(lexer);
  if (isWordEnd(text[lexer.at])) return stop(lexer, "a redirection without a target");
  const target = readWord(lexer);
  lexer.stage.danger ??= target.danger;
  if (operator === "<<" || operator === "<<-") expectHeredoc(lexer, target, operator === "<<-");
}

function substitution(lexer: Lexer): void {
  lexer.stage.danger ??= `${lexer.text[lexer.at]}(…)`;
  lexer.at += 1;
  skipGroup(lexer, ")");
}

function expectHeredoc(lexer: Lexer, target: Word, stripTabs: boolean): void {
  if (!target.fixed || target.value.includes("\n")) return stop(lexer, "a here-document whose end is not a plain word");
  // The stage may end before its body is read; the body's dangers then count against the next one, which asks just the same.
  lexer.heredocs.push({ delimiter: target.value, quoted: target.quoted, stripTabs });
}

function stop(lexer: Lexer, reason: string): void {
  lexer.broken ??= reason;
}
