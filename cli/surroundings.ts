import type { Readable, Writable } from "node:stream";

export type TerminalInput = Readable & { isTTY?: boolean; setRawMode?: (raw: boolean) => unknown };
export type TerminalOutput = Writable & { isTTY?: boolean };

/** Everything the CLI touches outside itself and the server. */
export type Surroundings = {
  env: Readonly<Record<string, string | undefined>>;
  stdin: TerminalInput;
  stdout: TerminalOutput;
  stderr: TerminalOutput;
  homeDirectory: string;
  now: () => Date;
  /** Takes Ctrl+C over; the returned function gives it back. */
  onInterrupt: (handler: () => void) => () => void;
};
