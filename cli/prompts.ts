import { usageFailure } from "./failures.ts";
import { readText } from "./files.ts";
import { readLines } from "./lines.ts";
import type { Surroundings } from "./surroundings.ts";

/** Everything on stdin, without the line end at its end. */
export async function readAll(surroundings: Surroundings): Promise<string> {
  return (await readText(surroundings, "-")).trim();
}

/** A secret typed at the terminal, which shows nothing of it. Undefined after Ctrl+C or Ctrl+D. Needs a terminal. */
export function readHidden({ stdin, stderr }: Surroundings, question: string): Promise<string | undefined> {
  const { setRawMode } = stdin;
  if (!stdin.isTTY || !setRawMode) throw usageFailure("a hidden prompt needs a terminal");
  stderr.write(question);
  setRawMode.call(stdin, true);
  return new Promise((resolve) => {
    let typed = "";
    const finish = (answer: string | undefined) => {
      stdin.off("data", read);
      setRawMode.call(stdin, false);
      stdin.pause();
      stderr.write("\n");
      resolve(answer);
    };
    const read = (chunk: Buffer | string) => {
      for (const character of chunk.toString()) {
        if (character === "\r" || character === "\n") return finish(typed.trim());
        if (character === "\u0003" || character === "\u0004") return finish(undefined);
        if (character === "\u007f" || character === "\b") typed = typed.slice(0, -1);
        else if (character >= " ") typed += character;
      }
    };
    stdin.on("data", read);
    stdin.resume();
  });
}

/** A line typed at the terminal, seen while it is typed. Undefined when the input ended first. */
export function readTyped({ stdin, stderr }: Surroundings, question: string): Promise<string | undefined> {
  stderr.write(question);
  return new Promise((resolve) => {
    const lines = readLines(stdin, () => {
      const line = lines.peek();
      if (line === undefined && !lines.ended()) return;
      lines.close();
      resolve(line?.trim());
    });
  });
}
