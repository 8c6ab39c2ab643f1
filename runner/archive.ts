// Packs and unpacks what a session is put away with. Runs in the sandbox only: whatever an archive holds cannot leave it.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, rm } from "node:fs/promises";
import { join, relative } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { constants, createZstdCompress, createZstdDecompress } from "node:zlib";

/** The directories that make up a session, and what of them is kept elsewhere. All are absolute. */
export type Roots = { directories: readonly string[]; except: readonly string[] };

const errorKept = 2_000;
/** The fastest level: what is packed is mostly packed already, or text of which any level makes little. */
const compression = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

/**
 * The directories as one compressed stream, with modes, times, links, holes and empty directories. Throws when anything could not
 * be read, and ends with nothing left behind when its reader stops early.
 */
export async function* pack({ directories, except }: Roots, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  signal.throwIfAborted();
  const tar = runTar([
    "--create",
    "--format=posix",
    "--numeric-owner",
    "--sparse",
    // Both are about the exclusions after them.
    "--anchored",
    "--no-wildcards",
    ...except.map((path) => `--exclude=${fromRoot(path)}`),
    ...directories.map(fromRoot),
  ]);
  const stop = (): void => void tar.process.kill("SIGKILL");
  signal.addEventListener("abort", stop);
  const packed = createZstdCompress(compression);
  const piped = pipeline(tar.process.stdout!, packed);
  // Awaited below, unless the reader stops before.
  piped.catch(() => undefined);
  try {
    yield* packed as AsyncIterable<Uint8Array>;
    await Promise.all([piped, tar.succeeded]);
  } finally {
    signal.removeEventListener("abort", stop);
    stop();
    packed.destroy();
  }
}

/** Makes the directories hold exactly what was packed. */
export async function unpack(source: AsyncIterable<Uint8Array>, { directories }: Roots): Promise<void> {
  for (const directory of directories) await empty(directory);
  const tar = runTar(["--extract", "--preserve-permissions", "--no-same-owner", "--delay-directory-restore"]);
  const plain = createZstdDecompress();
  const unpacked = pipeline(Readable.from(source), plain);
  try {
    await feed(tar, plain);
    await unpacked;
  } catch (error) {
    tar.process.kill("SIGKILL");
    unpacked.catch(() => undefined);
    await tar.succeeded.catch(() => undefined);
    throw error;
  }
  await tar.succeeded;
}

/**
 * Resolves when all that was written to the directories is where it is kept. A disk may have promised more than it holds, as
 * sparse files do: then writing succeeds, and only this fails.
 */
export async function written({ directories }: Pick<Roots, "directories">): Promise<void> {
  await runTool("sync", ["--file-system", ...directories]).succeeded;
}

/** Tar may leave as soon as it has seen the end of the archive; the source is read to its own end all the same, because it is verified there. */
async function feed(tar: Tool, source: AsyncIterable<Uint8Array>): Promise<void> {
  const input = tar.process.stdin!;
  let open = true;
  const close = (): void => {
    open = false;
  };
  input.on("error", close);
  const left = tar.succeeded.then(close, close);
  for await (const chunk of source) {
    if (open && !input.write(chunk)) await Promise.race([once(input, "drain").catch(close), left]);
  }
  input.end();
}

async function empty(directory: string): Promise<void> {
  for (const name of await readdir(directory)) await rm(join(directory, name), { recursive: true, force: true });
}

function fromRoot(path: string): string {
  return relative("/", path);
}

type Tool = {
  process: ChildProcess;
  /** Rejects with what it said when it ended otherwise. */
  succeeded: Promise<void>;
};

function runTar(args: readonly string[]): Tool {
  return runTool("tar", ["--directory=/", ...args]);
}

function runTool(name: string, args: readonly string[]): Tool {
  const child = spawn(name, args, { stdio: ["pipe", "pipe", "pipe"] });
  let said = "";
  child.stderr!.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-errorKept);
  });
  // Rejects also when there is no such program.
  const succeeded = once(child, "close").then(([code, killed]) => {
    if (code !== 0) throw new Error(`${name} ended with ${code ?? killed}: ${said.trim()}`);
  });
  // Awaited only after its output was read; until then its failure is nobody's yet.
  succeeded.catch(() => undefined);
  return { process: child, succeeded };
}
