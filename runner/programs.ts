// Programs that see files as they are, names that are no text included: tar and find; and sync, which waits for the disk.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";

export type Program = {
  process: ChildProcess;
  /** Rejects with what it said when it ended otherwise. */
  succeeded: Promise<void>;
};

const errorKept = 2_000;

/**
 * @param input whether it is fed, or finds nothing there.
 * @param signal kills it.
 */
export function runProgram(
  name: "tar" | "find" | "sync",
  args: readonly string[],
  input: "pipe" | "ignore",
  signal?: AbortSignal,
): Program {
  const child = spawn(name, args, { stdio: [input, "pipe", "pipe"] });
  let said = "";
  child.stderr!.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-errorKept);
  });
  const stop = (): void => void child.kill("SIGKILL");
  signal?.addEventListener("abort", stop);
  // Rejects also when there is no such program.
  const succeeded = once(child, "close")
    .finally(() => signal?.removeEventListener("abort", stop))
    .then(([code, killed]) => {
      if (code !== 0) throw new Error(`${name} ended with ${code ?? killed}: ${said.trim()}`);
    });
  // Awaited only after its output was read; until then its failure is nobody's yet.
  succeeded.catch(() => undefined);
  return { process: child, succeeded };
}

/** What a program prints. Throws what it said when it ended otherwise than well, or could not be run. */
export async function* outputOf({ process: { stdout }, succeeded }: Program): AsyncGenerator<Buffer> {
  try {
    yield* stdout as AsyncIterable<Buffer>;
  } catch (error) {
    await succeeded;
    throw error;
  }
  await succeeded;
}

/**
 * Gives a program its input. It may leave before it has read all; the source is read to its own end all the same. A program whose
 * source fails is ended.
 */
export async function feed(program: Program, source: AsyncIterable<Uint8Array>): Promise<void> {
  try {
    await write(program, source);
  } catch (error) {
    program.process.kill("SIGKILL");
    await program.succeeded.catch(() => undefined);
    throw error;
  }
}

async function write({ process: { stdin }, succeeded }: Program, source: AsyncIterable<Uint8Array>): Promise<void> {
  const input = stdin!;
  let open = true;
  const close = (): void => {
    open = false;
  };
  input.on("error", close);
  const left = succeeded.then(close, close);
  for await (const chunk of source) {
    if (open && !input.write(chunk)) await Promise.race([once(input, "drain").catch(close), left]);
  }
  input.end();
}
