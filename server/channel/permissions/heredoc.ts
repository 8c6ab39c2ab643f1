import { type Cursor, readDollar } from "./word.ts";

export type PendingHeredoc = {
  delimiter: string;
  /** Any quoting of the delimiter makes the body literal. */
  quoted: boolean;
  /** `<<-`: leading tabs are removed before a line is compared. */
  stripTabs: boolean;
};

/** Moves past the body and its closing line. Undefined, and the cursor broken, when there is no closing line. */
export function readHeredocBody(cursor: Cursor, heredoc: PendingHeredoc): string | undefined {
  const { text } = cursor;
  const start = cursor.at;
  while (cursor.at < text.length) {
    const newline = text.indexOf("\n", cursor.at);
    const end = newline < 0 ? text.length : newline;
    const lineStart = cursor.at;
    cursor.at = Math.min(end + 1, text.length);
    let from = lineStart;
    if (heredoc.stripTabs) while (text[from] === "\t") from += 1;
    if (end - from === heredoc.delimiter.length && text.startsWith(heredoc.delimiter, from)) return text.slice(start, lineStart);
    // Bash joins such lines before it looks for the end, so which line ends the body is no longer certain.
    if (!heredoc.quoted && text[end - 1] === "\\" && end > lineStart) {
      cursor.broken ??= "a line continuation in a here-document";
      return undefined;
    }
  }
  cursor.broken ??= "a here-document without its end";
  return undefined;
}

/** Whether an unquoted body expands nothing but plain parameters. */
export function isHeredocPlain(body: string): boolean {
  const cursor: Cursor = { text: body, at: 0, broken: undefined };
  while (cursor.at < body.length) {
    const char = body[cursor.at];
    if (char === "\\") cursor.at += 2;
    else if (char === "`") return false;
    else if (char === "$") {
      if (readDollar(cursor).danger !== undefined || cursor.broken !== undefined) return false;
    } else cursor.at += 1;
  }
  return true;
}
