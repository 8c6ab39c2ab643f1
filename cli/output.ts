import { safeJson, sanitise } from "./output-text.ts";
import type { Surroundings, TerminalOutput } from "./surroundings.ts";

const codes = {
  plain: "",
  bold: "1",
  dim: "2",
  userName: "1;32",
  assistantName: "1;36",
  tool: "33",
  toolResult: "2;33",
  result: "34",
  approval: "1;33",
  question: "1;35",
  problem: "1;31",
  banner: "33",
} as const;

export type Style = keyof typeof codes;

/** Text with the style it is shown in. Plain strings have none. Sanitised when written, so callers pass it as it came. */
export type Piece = string | { style: Style; text: string };

export type OutputOptions = { json: boolean; quiet: boolean; color: boolean };

/** Data goes to stdout; notices, prompts and errors go to stderr. */
export type Output = {
  json: boolean;
  quiet: boolean;
  /** One line of data. */
  line(...pieces: Piece[]): void;
  /** Begins a line of data that `append` continues; anything else that is printed ends it. */
  begin(...pieces: Piece[]): void;
  /** More of the line begun, already safe to print. */
  append(style: Style, text: string): void;
  endLine(): void;
  /** One JSON document, indented for people who look at it. */
  document(value: unknown): void;
  /** One JSON document on one line. */
  jsonLine(value: unknown): void;
  /** A sentence for the person, not shown with --quiet. */
  notice(...pieces: Piece[]): void;
  /** A sentence that is shown in any case. */
  warn(...pieces: Piece[]): void;
};

export function createOutput({ stdout, stderr, env }: Surroundings, { json, quiet, color }: OutputOptions): Output {
  const colorOn = (stream: TerminalOutput) => color && stream.isTTY === true && !env["NO_COLOR"] && env["TERM"] !== "dumb";
  const paint = { out: painter(colorOn(stdout)), error: painter(colorOn(stderr)) };
  // Whether a line of stdout is unfinished, and whether its last character was already a line end.
  let open = false;
  let atLineStart = true;

  function write(text: string): void {
    if (text === "") return;
    stdout.write(text);
    atLineStart = text.endsWith("\n");
  }

  function endLine(): void {
    if (open && !atLineStart) write("\n");
    open = false;
  }

  function line(...pieces: Piece[]): void {
    endLine();
    write(`${pieces.map(paint.out).join("")}\n`);
  }

  function warn(...pieces: Piece[]): void {
    // Only on a terminal do the two streams share a line.
    if (stdout.isTTY) endLine();
    stderr.write(`${pieces.map(paint.error).join("")}\n`);
  }

  return {
    json,
    quiet,
    line,
    begin(...pieces) {
      endLine();
      open = true;
      write(pieces.map(paint.out).join(""));
    },
    append(style, text) {
      if (text === "") return;
      // A notice may have ended the line; it goes on below it.
      open = true;
      write(paint.out({ style, text }));
      atLineStart = text.endsWith("\n");
    },
    endLine,
    document: (value) => line(safeJson(value, 2)),
    jsonLine: (value) => line(safeJson(value)),
    notice: (...pieces) => (quiet ? undefined : warn(...pieces)),
    warn,
  };
}

function painter(enabled: boolean): (piece: Piece) => string {
  return (piece) => {
    const { style, text } = typeof piece === "string" ? { style: "plain" as const, text: piece } : piece;
    const safe = sanitise(text);
    return enabled && codes[style] !== "" && safe !== "" ? `\u001b[${codes[style]}m${safe}\u001b[0m` : safe;
  };
}
