import { createInterface } from "node:readline";
import type { TerminalInput } from "./surroundings.ts";

/** The lines of stdin, kept until somebody is ready for them. */
export type Lines = {
  /** The oldest line, not yet taken. */
  peek(): string | undefined;
  take(): string | undefined;
  /** No more will come. */
  ended(): boolean;
  close(): void;
};

/** `onChange` is called after each line and at the end. The terminal edits its own lines: no caret, no history. */
export function readLines(stdin: TerminalInput, onChange: () => void): Lines {
  const lines: string[] = [];
  let ended = stdin.readableEnded || stdin.destroyed;
  const reader = createInterface({ input: stdin, terminal: false });
  reader.on("line", (line) => {
    lines.push(line);
    onChange();
  });
  reader.on("close", () => {
    ended = true;
    onChange();
  });
  // A terminal that went away ends the input like Ctrl+D.
  stdin.on("error", () => reader.close());
  return { peek: () => lines[0], take: () => lines.shift(), ended: () => ended, close: () => reader.close() };
}
