// What lies in a session's directories, entry by entry, and what of it has changed since they were last listed.
import { lstat } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { createZstdCompress, createZstdDecompress } from "node:zlib";
import { outputOf, runProgram } from "./programs.ts";

/** The directories that make up a session. All paths are absolute. */
export type Roots = {
  directories: readonly string[];
  /** What of them is kept elsewhere. */
  except: readonly string[];
  /** The file that says what is unlocked; it outlives its runner. */
  unlocked: string;
  /** What an agent reads as it starts: paths of files, and of directories with all that is in them. */
  first: readonly string[];
  /** The directories of which it only looks whether they are there. */
  signs: readonly string[];
};

/** A path as `find` and the kernel know it: each character is one byte, because a name need not be text. */
export type BytePath = string;

export type Entry = {
  path: BytePath;
  isDirectory: boolean;
  /** The permission bits. */
  mode: number;
  /** What it shares with its other names; empty for what has one name only. */
  shared: string;
  /** All that is known of it. Nothing can be done to a file that leaves this as it was, save within one tick of the kernel's clock. */
  record: string;
};

/** The records of all entries, each of its moment, packed: an idle session holds them for as long as it runs. */
export type Listing = readonly Buffer[];

/** What sets a directory tree apart from what it was. */
export type Changes = {
  /** New or different now, with the directories they lie in; a directory comes before what is in it. Undefined for everything. */
  present: readonly BytePath[] | undefined;
  /** Gone or different now, but for directories that still are some; a directory comes after what was in it. */
  past: BytePath[];
};

/** Packed, some hundred thousand entries. Where there are more, nothing is compared and everything travels. */
const longestListing = 4 * 1024 * 1024;
/** What may be held of one moment to compare it with another, bytes. Long paths that begin alike are packed to almost nothing. */
const mostCompared = 64 * 1024 * 1024;
/** What an entry takes beside its record. */
const entryBytes = 100;
/** Kernels before 6.13 tell the time of a change by a clock that ticks this seldom at worst. */
const tickMs = 10;

/** Type, mode, names, inode, size, time of change, time of modification, path. */
const record = "%y %m %n %i %s %C@ %T@ %p\\0";
const fields = /^(.) (\d+) (\d+) (\d+) \d+ \S+ \S+ (.*)$/s;

/**
 * Every entry for which the tests of `find` hold, a directory before what is in it. Throws at the end when something could
 * not be looked at. Sockets are nothing without the program behind them and are left out.
 */
export async function* listEntries(
  { directories, except }: Pick<Roots, "directories" | "except">,
  tests: readonly string[] = [],
): AsyncGenerator<Entry> {
  // Told of nowhere, find looks around where it is.
  if (directories.length === 0) return;
  const prune = except.flatMap((path) => ["-path", path.replaceAll(/[*?[\\]/g, "\\$&"), "-prune", "-o"]);
  const find = runProgram("find", [...directories, ...prune, "!", "-type", "s", ...tests, "-printf", record], "ignore");
  try {
    for await (const one of separated(outputOf(find))) yield entryOf(one);
  } finally {
    find.process.kill("SIGKILL");
  }
}

/** Answers once no later change can look like what is listed; undefined for more than is worth comparing. */
export async function takeListing(roots: Pick<Roots, "directories" | "except">): Promise<Listing | undefined> {
  const ticked = sleep(tickMs);
  const packed = createZstdCompress();
  const scale = createScale();
  const written = pipeline(Readable.from(recordsOf(roots, scale)), packed);
  // Awaited below, unless the listing is too long.
  written.catch(() => undefined);
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of packed as AsyncIterable<Buffer>) {
    pieces.push(piece);
    bytes += piece.length;
    if (bytes > longestListing) return undefined;
  }
  await Promise.all([written, ticked]);
  return scale.isTooMuch() ? undefined : [Buffer.concat(pieces)];
}

/** Tells whether a path is among, or below, those that come first. */
export function comesFirst({ first }: Pick<Roots, "first">): (path: BytePath) => boolean {
  const known = first.map((one) => Buffer.from(one).toString("latin1"));
  return (path) => known.some((one) => path === one || path.startsWith(`${one}/`));
}

/** Both parts, as roots of their own, and the signs that are there. */
export type Split = { first: Roots; rest: Roots; signs: readonly string[] };

/**
 * What comes first set apart from the rest. Undefined where the two may hang together: what an agent reads as it starts would be
 * another name of something, or a link to somewhere else.
 */
export async function splitRoots(roots: Roots): Promise<Split | undefined> {
  const directories = (await presentIn(roots.first)).map(({ path }) => path);
  const signs = await presentIn(roots.signs);
  if (signs.some(({ isDirectory }) => !isDirectory)) return undefined;
  const first = { ...roots, directories };
  for await (const _entry of listEntries(first, ["(", "-type", "l", "-o", "!", "-type", "d", "-links", "+1", ")"])) return undefined;
  return { first, rest: { ...roots, except: [...roots.except, ...roots.first] }, signs: signs.map(({ path }) => path) };
}

async function presentIn(paths: readonly string[]): Promise<{ path: string; isDirectory: boolean }[]> {
  const look = async (path: string) => {
    try {
      return [{ path, isDirectory: (await lstat(path)).isDirectory() }];
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
      throw error;
    }
  };
  return (await Promise.all(paths.map(look))).flat();
}

/**
 * Compares what is there with what was. Both are compared as a whole: a clock that was set back hides nothing. Where too much is
 * there, nothing is compared: everything that was is gone then, and everything present.
 */
export async function changesSince(listing: Listing, roots: Roots): Promise<Changes> {
  return (await compare(listing, roots)) ?? { present: undefined, past: await pathsBefore(listing, roots) };
}

async function compare(listing: Listing, roots: Roots): Promise<Changes | undefined> {
  const gone = new Set<string>();
  for await (const one of recordsBefore(listing)) gone.add(one);
  const scale = createScale();
  const changed: BytePath[] = [];
  const directories = new Set<BytePath>();
  const same: Entry[] = [];
  const torn = new Set<string>();
  for await (const entry of listEntries(roots)) {
    scale.add(entry.record);
    if (scale.isTooMuch()) return undefined;
    if (entry.isDirectory) directories.add(entry.path);
    if (!gone.has(entry.record)) {
      changed.push(entry.path);
      if (entry.shared) torn.add(entry.shared);
    } else if (entry.shared) same.push(entry);
    else gone.delete(entry.record);
  }
  // A file gets another name when the directory of one of its names does, and nothing else about it changes: its names stay together.
  for (const { shared, path, record } of same) {
    if (torn.has(shared)) changed.push(path);
    else gone.delete(record);
  }
  const past = [...gone].map(entryOf);
  // Putting something into a directory changes its time, which is then set again.
  const parents = [...changed, ...past.map(({ path }) => path)].map(parentOf).filter((path) => directories.has(path));
  return {
    present: [...new Set([...changed, ...parents])].sort(),
    past: past
      .filter(({ path, isDirectory }) => !(isDirectory && directories.has(path)))
      .map(({ path }) => path)
      .sort()
      .reverse(),
  };
}

/** The path as calls of the file system take it. */
export function bytesOf(path: BytePath): Buffer {
  return Buffer.from(path, "latin1");
}

type Scale = ReturnType<typeof createScale>;

/** All records are weighed, whatever becomes of each: a piece of a text keeps all of the text in memory. */
function createScale() {
  let bytes = 0;
  return { add: (record: string) => void (bytes += record.length + entryBytes), isTooMuch: () => bytes > mostCompared };
}

/** Ends where it is too much. */
async function* recordsOf(roots: Pick<Roots, "directories" | "except">, scale: Scale): AsyncGenerator<Buffer> {
  for await (const { record } of listEntries(roots)) {
    scale.add(record);
    if (scale.isTooMuch()) return;
    yield bytesOf(`${record}\0`);
  }
}

async function* recordsBefore(listing: Listing): AsyncGenerator<string> {
  for (const part of listing) yield* separated(Readable.from([part]).pipe(createZstdDecompress()));
}

/** What was in the directories, which themselves stay; a directory comes after what was in it. */
async function pathsBefore(listing: Listing, { directories }: Roots): Promise<BytePath[]> {
  const paths: BytePath[] = [];
  for await (const one of recordsBefore(listing)) paths.push(entryOf(one).path);
  return paths
    .filter((path) => !directories.includes(path))
    .sort()
    .reverse();
}

function entryOf(record: string): Entry {
  const [, type, mode, names, inode, path] = fields.exec(record) ?? [];
  if (path === undefined) throw new Error("find said something else than it was asked for");
  const isDirectory = type === "d";
  return { path, isDirectory, mode: Number.parseInt(mode!, 8), shared: isDirectory || names === "1" ? "" : inode!, record };
}

function parentOf(path: BytePath): BytePath {
  return path.slice(0, path.lastIndexOf("/"));
}

/** What lies between the zero bytes of a stream. */
async function* separated(source: AsyncIterable<Buffer>): AsyncGenerator<string> {
  let rest = "";
  for await (const chunk of source) {
    const parts = (rest + chunk.toString("latin1")).split("\0");
    rest = parts.pop()!;
    yield* parts;
  }
}
