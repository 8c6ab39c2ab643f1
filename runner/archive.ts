// Packs and unpacks what a session is put away with. Runs in the sandbox only: whatever an archive holds cannot leave it.
//
// Packed, an archive is one Zstandard stream: a head, and behind it what tar makes of the entries. The head is the mark, then for
// each path that has to go before they are unpacked `-` and the path, for each that is locked afterwards its mode in octal, a space
// and the path, each of these ended by a zero byte, and one zero byte more. Archives without a head are of a time without increments.
import { rmdir, unlink } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { constants, createZstdCompress, createZstdDecompress } from "node:zlib";
import { type BytePath, bytesOf, changesSince, type Listing, listEntries, type Roots, takeListing } from "./listing.ts";
import { type Lock, lock, locksOf, recordsOf, unlock } from "./locks.ts";
import { feed, outputOf, runProgram } from "./programs.ts";

/** Each piece crosses a thread and a pipe: in small ones that takes longer than the work. */
const pieces = { chunkSize: 1 << 20 };
/** The fastest level: what is packed is mostly packed already, or text of which any level makes little. */
const compression = { ...pieces, params: { [constants.ZSTD_c_compressionLevel]: 1 } };
const mark = "carrel-snapshot\0";
const namesAtOnce = 64 * 1024;

/**
 * The directories as one compressed stream, with modes, times, links, holes and empty directories. Throws when anything could not
 * be read, and ends with nothing left behind when its reader stops early.
 * @param since packs only what sets them apart from this. Undefined packs everything.
 */
export async function* pack(roots: Roots, since: Listing | undefined, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  signal.throwIfAborted();
  const locks = await unlock(roots);
  try {
    const changes = since && (await changesSince(since, roots));
    yield* packEntries(changes?.present ?? pathsOf(roots), headOf(changes?.past ?? [], locks), signal);
  } finally {
    await lock(roots, locks);
  }
}

/**
 * Makes the directories hold exactly what was packed: everything, and then each increment to it in order. When it throws they hold
 * nobody's work. Answers with what `pack` compares with.
 */
export async function unpack(archives: readonly AsyncIterable<Uint8Array>[], roots: Roots): Promise<Listing | undefined> {
  await empty(roots);
  let locks: readonly Lock[] = [];
  for (const [place, archive] of archives.entries()) {
    // What the one before locked is in the way of this one, which says itself what is locked in the end.
    if (place > 0) await unlock(roots);
    locks = await apply(archive);
  }
  // Taken before something is locked, which then counts as changed: what is in it has to be looked at.
  const listing = await takeListing(roots);
  await lock(roots, locks);
  return listing;
}

async function* packEntries(
  paths: Iterable<BytePath> | AsyncIterable<BytePath>,
  head: Buffer,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  signal.throwIfAborted();
  const names = ["--no-recursion", "--null", "--no-unquote", "--files-from=-"];
  const tar = runProgram("tar", ["--create", "--format=posix", "--numeric-owner", "--sparse", "--directory=/", ...names], "pipe", signal);
  const packed = createZstdCompress(compression);
  packed.write(head);
  const fed = feed(tar, namesOf(paths));
  const piped = pipeline(outputOf(tar), packed);
  // Both are awaited below, unless the reader stops before.
  fed.catch(() => undefined);
  piped.catch(() => undefined);
  try {
    yield* packed as AsyncIterable<Uint8Array>;
    await piped;
  } catch (error) {
    // Where tar was ended because nobody could say what to pack, that is the reason.
    await fed;
    throw error;
  } finally {
    tar.process.kill("SIGKILL");
    packed.destroy();
  }
}

async function apply(archive: AsyncIterable<Uint8Array>): Promise<Lock[]> {
  const plain = createZstdDecompress(pieces);
  const unpacked = pipeline(Readable.from(archive), plain);
  // Awaited below, unless something fails before.
  unpacked.catch(() => undefined);
  try {
    const { past, locks, entries } = await beheaded(plain);
    for (const path of past) await remove(path);
    await extract(entries);
    await unpacked;
    return locks;
  } finally {
    plain.destroy();
  }
}

/** The source is read to its own end, also when tar has seen the end of the archive before, because it is verified there. */
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

function headOf(past: readonly BytePath[], locks: readonly Lock[]): Buffer {
  return Buffer.concat([bytesOf(`${mark}${past.map((path) => `-${path}\0`).join("")}`), recordsOf(locks), Buffer.of(0)]);
}

type Parts = { past: BytePath[]; locks: Lock[]; entries: AsyncIterable<Uint8Array> };

async function beheaded(plain: AsyncIterable<Buffer>): Promise<Parts> {
  const pieces = plain[Symbol.asyncIterator]();
  let read = Buffer.alloc(0);
  for (;;) {
    const end = read.indexOf("\0\0");
    const isHead = read.subarray(0, mark.length).toString("latin1") === mark.slice(0, read.length);
    if (!isHead) return { past: [], locks: [], entries: followed(read, pieces) };
    if (end >= 0) return { ...partsOf(read.toString("latin1", mark.length, end + 1)), entries: followed(read.subarray(end + 2), pieces) };
    const { value, done } = await pieces.next();
    if (done) throw new Error("the archive has no end of its head");
    read = Buffer.concat([read, value]);
  }
}

function partsOf(records: string): Pick<Parts, "past" | "locks"> {
  const past = records.split("\0").filter((one) => one.startsWith("-"));
  const locks = records.slice(past.reduce((length, one) => length + one.length + 1, 0));
  return { past: past.map((one) => one.slice(1)), locks: locksOf(locks) };
}

async function* followed(first: Uint8Array, rest: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield first;
  for (let next = await rest.next(); !next.done; next = await rest.next()) yield next.value;
}

/** As tar takes names of entries, some at once. */
async function* namesOf(paths: Iterable<BytePath> | AsyncIterable<BytePath>): AsyncGenerator<Buffer> {
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
