// Packs and unpacks what a session is put away with. Runs in the sandbox only: whatever an archive holds cannot leave it.
import { mkdir, rmdir, unlink } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { constants, createZstdCompress, createZstdDecompress } from "node:zlib";
import { framed, headOf, type OpenArchive, openArchive } from "./archive-format.ts";
import {
  type BytePath,
  bytesOf,
  type Changes,
  changesSince,
  comesFirst,
  type Listing,
  listEntries,
  type Roots,
  type Split,
  splitRoots,
  takeListing,
} from "./listing.ts";
import { type Lock, lock, unlock } from "./locks.ts";
import { feed, outputOf, runProgram } from "./programs.ts";

/** Each piece crosses a thread and a pipe, which for small ones takes longer than the work; large ones come from the kernel, one by one. */
const pieces = { chunkSize: 128 * 1024 };
/** The fastest level: what is packed is mostly packed already, or text of which any level makes little. */
const compression = { ...pieces, params: { [constants.ZSTD_c_compressionLevel]: 1 } };
const namesAtOnce = 64 * 1024;

/** An archive from its start, as often as it is asked for. */
export type ArchiveSource = () => AsyncIterable<Uint8Array>;

type Paths = Iterable<BytePath> | AsyncIterable<BytePath>;

/**
 * The directories as one compressed stream, with modes, times, links, holes and empty directories. Throws when anything could not
 * be read, and ends with nothing left behind when its reader stops early.
 * @param since packs only what sets them apart from this. Undefined packs everything.
 */
export async function* pack(roots: Roots, since: Listing | undefined, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  signal.throwIfAborted();
  const locks = await unlock(roots);
  const stopped = new AbortController();
  try {
    const changes = since && (await changesSince(since, roots));
    const split = await splitRoots(roots);
    const head = headOf({ past: changes?.past ?? [], locks, signs: split?.signs });
    yield* compressed(plainOf(head, partsOf(roots, split, changes), AbortSignal.any([signal, stopped.signal])));
  } finally {
    stopped.abort();
    await lock(roots, locks);
  }
}

/**
 * Makes the directories hold exactly what was packed: everything, and then each increment to it in order. When it throws they hold
 * nobody's work. Answers with what `pack` compares with.
 * @param onFirst called once all that an agent reads as it starts is there, where that is known before everything is.
 */
export async function unpack(
  archives: readonly ArchiveSource[],
  roots: Roots,
  onFirst?: () => Promise<void>,
): Promise<Listing | undefined> {
  await empty(roots);
  const early = onFirst && (await unpackFirst(archives, roots));
  // What the agent changes from now on is not what was packed.
  const listed = early && (await takeListing(early.first));
  if (early) await onFirst();
  const isFirst = comesFirst(roots);
  const isWanted = early ? (path: BytePath) => !isFirst(path) : () => true;
  let locks: readonly Lock[] = [];
  for (const archive of archives) locks = await apply(archive, isWanted, early ? ["second"] : ["first", "second"]);
  // Taken before something is locked, which then counts as changed: what is in it has to be looked at.
  const rest = await takeListing(early?.rest ?? roots);
  await lock(roots, locks);
  return early ? listed && rest && [...listed, ...rest] : rest;
}

/** The first parts of all, and nothing at all where one of them says that its parts hang together. */
async function unpackFirst(archives: readonly ArchiveSource[], roots: Roots): Promise<Split | undefined> {
  let signs: readonly BytePath[] | undefined;
  for (const archive of archives) {
    signs = await opened(archive, async (open) => {
      if (open.signs) await write(open, comesFirst(roots), ["first"]);
      return open.signs;
    });
    if (!signs) break;
  }
  for (const path of signs ?? []) await mkdir(bytesOf(path));
  const split = signs && (await splitRoots(roots));
  if (!split) await empty(roots);
  return split;
}

/** Reads it to its own end, because it is verified there. */
async function apply(archive: ArchiveSource, isWanted: (path: BytePath) => boolean, parts: readonly Part[]): Promise<readonly Lock[]> {
  return opened(archive, async (open, verified) => {
    await write(open, isWanted, parts);
    await verified;
    return open.locks;
  });
}

type Part = "first" | "second";

/** Both parts have to be read in turn, also the one that is not wanted any more. */
async function write({ past, first, second }: OpenArchive, isWanted: (path: BytePath) => boolean, wanted: readonly Part[]): Promise<void> {
  for (const path of past) if (isWanted(path)) await remove(path);
  if (first && wanted.includes("first")) await extract(first);
  else for await (const _piece of first ?? []);
  if (wanted.includes("second")) await extract(second);
}

/** @param work is told of the archive, and when all of it has been read and found whole. */
async function opened<T>(archive: ArchiveSource, work: (open: OpenArchive, verified: Promise<void>) => Promise<T>): Promise<T> {
  const plain = createZstdDecompress(pieces);
  const verified = pipeline(Readable.from(archive()), plain);
  // Awaited by who reads to the end.
  verified.catch(() => undefined);
  try {
    return await work(await openArchive(plain), verified);
  } finally {
    plain.destroy();
  }
}

async function* compressed(plain: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const packed = createZstdCompress(compression);
  const piped = pipeline(plain, packed);
  // Awaited below, unless the reader stops before.
  piped.catch(() => undefined);
  try {
    yield* packed as AsyncIterable<Uint8Array>;
    await piped;
  } finally {
    packed.destroy();
  }
}

async function* plainOf(head: Buffer, parts: readonly Paths[], signal: AbortSignal): AsyncGenerator<Uint8Array> {
  yield head;
  for (const paths of parts) yield* framed(entriesOf(paths, signal));
}

/** The entries of both parts, the first of which is empty where they may hang together. */
function partsOf(roots: Roots, split: Split | undefined, changes: Changes | undefined): Paths[] {
  if (!changes?.present) return [split ? pathsOf(split.first) : [], pathsOf(split?.rest ?? roots)];
  const isFirst = split ? comesFirst(roots) : () => false;
  return [changes.present.filter(isFirst), changes.present.filter((path) => !isFirst(path))];
}

/** What tar makes of them. */
async function* entriesOf(paths: Paths, signal: AbortSignal): AsyncGenerator<Buffer> {
  const names = ["--no-recursion", "--null", "--no-unquote", "--files-from=-"];
  const tar = runProgram("tar", ["--create", "--format=posix", "--numeric-owner", "--sparse", "--directory=/", ...names], "pipe", signal);
  const fed = feed(tar, namesOf(paths));
  // Awaited below, unless the reader stops before.
  fed.catch(() => undefined);
  try {
    yield* outputOf(tar);
  } catch (error) {
    // Where tar was ended because nobody could say what to pack, that is the reason.
    await fed;
    throw error;
  } finally {
    tar.process.kill("SIGKILL");
  }
}

/** The source is read to its own end, also when tar has seen the end of the archive before. */
async function extract(entries: AsyncIterable<Uint8Array>): Promise<void> {
  const how = ["--preserve-permissions", "--no-same-owner", "--delay-directory-restore"];
  const tar = runProgram("tar", ["--extract", "--directory=/", ...how], "pipe");
  await feed(tar, entries);
  await tar.succeeded;
}

/**
 * Resolves when all that was written to the directories is where it is kept. A disk may have promised more than it holds, as
 * sparse files do: then writing succeeds, and only this fails.
 */
export async function written({ directories }: Pick<Roots, "directories">, signal?: AbortSignal): Promise<void> {
  await runProgram("sync", ["--file-system", ...directories], "ignore", signal).succeeded;
}

/** As tar takes names of entries, some at once. */
async function* namesOf(paths: Paths): AsyncGenerator<Buffer> {
  let names = "";
  for await (const path of paths) {
    names += `${path.slice(1)}\0`;
    if (names.length < namesAtOnce) continue;
    yield bytesOf(names);
    names = "";
  }
  yield bytesOf(names);
}

async function* pathsOf(roots: Roots): AsyncGenerator<BytePath> {
  for await (const { path } of listEntries(roots)) yield path;
}

async function empty({ directories, unlocked }: Roots): Promise<void> {
  await unlock({ directories, except: [], unlocked });
  const find = runProgram("find", [...directories, "-mindepth", "1", "-delete"], "ignore");
  await find.succeeded;
}

/** Nothing happens when it is not there. */
async function remove(path: BytePath): Promise<void> {
  const bytes = bytesOf(path);
  await unlink(bytes).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return;
    if (error.code !== "EISDIR") throw error;
    await rmdir(bytes);
  });
}
