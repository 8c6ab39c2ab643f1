/** Runs the CLI inside the test, on streams that pretend to be a terminal or a pipe. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { PassThrough } from "node:stream";
import { onTestFinished } from "vitest";
import { runCli } from "../../../cli/program.ts";
import type { TerminalInput, TerminalOutput } from "../../../cli/surroundings.ts";
import { goodToken } from "./fake-carrel.ts";

export type RunOptions = {
  url: string;
  args: string[];
  /** Lines of a pipe, which then ends. Default: nothing, ended. Not with `isTerminal`. */
  stdin?: string;
  isTerminal?: boolean;
  env?: Record<string, string>;
  home?: string;
};

export type Running = {
  type(text: string): void;
  endInput(): void;
  interrupt(): void;
  /** Resolves when stdout and stderr together contain the text. */
  until(text: string): Promise<void>;
  stdout(): string;
  stderr(): string;
  rawModes: boolean[];
  exitCode: Promise<number>;
};

export function temporaryHome(): string {
  const home = mkdtempSync(path.join(tmpdir(), "carrel-home-"));
  onTestFinished(() => rmSync(home, { recursive: true, force: true }));
  return home;
}

export function start({ url, args, stdin, isTerminal = false, env = {}, home = "/nonexistent" }: RunOptions): Running {
  const rawModes: boolean[] = [];
  const input: PassThrough & TerminalInput = Object.assign(new PassThrough(), {
    isTTY: isTerminal,
    setRawMode: (raw: boolean) => rawModes.push(raw),
  });
  const [out, error] = [collector(isTerminal), collector(isTerminal)];
  const interrupts = new Set<() => void>();
  if (!isTerminal) input.end(stdin ?? "");
  const exitCode = runCli(args, {
    env: { CARREL_URL: url, CARREL_TOKEN: goodToken, NO_COLOR: "1", ...env },
    stdin: input,
    stdout: out.stream,
    stderr: error.stream,
    homeDirectory: home,
    now: () => new Date("2027-01-15T08:00:00Z"),
    onInterrupt(handler) {
      interrupts.add(handler);
      return () => interrupts.delete(handler);
    },
  });
  return {
    type: (text) => void input.write(text),
    endInput: () => void input.end(),
    interrupt: () => interrupts.forEach((handler) => handler()),
    async until(text) {
      const deadline = Date.now() + 5_000;
      while (!(out.text() + error.text()).includes(text)) {
        if (Date.now() > deadline) throw new Error(`never saw ${JSON.stringify(text)} in\n${out.text()}\n--- stderr\n${error.text()}`);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    },
    stdout: () => withoutTimes(out.text()),
    stderr: () => error.text(),
    rawModes,
    exitCode,
  };
}

export async function run(options: RunOptions): Promise<{ stdout: string; stderr: string; exitCode: number }> {
  const running = start(options);
  const exitCode = await running.exitCode;
  return { stdout: running.stdout(), stderr: running.stderr(), exitCode };
}

function withoutTimes(text: string): string {
  return text.replace(/\[\d\d:\d\d:\d\d\] /g, "");
}

function collector(isTTY: boolean): { stream: TerminalOutput; text: () => string } {
  const chunks: string[] = [];
  const stream = Object.assign(new PassThrough(), { isTTY });
  stream.on("data", (chunk: Buffer) => chunks.push(chunk.toString()));
  return { stream, text: () => chunks.join("") };
}
