import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, existsSync, linkSync, mkdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { afterAll, afterEach, beforeEach, expect, test } from "vitest";
import { pack, unpack } from "../../../runner/archive.ts";
import { changesSince, type Listing, type Roots, takeListing } from "../../../runner/listing.ts";
import { lock, lockAgain, unlock } from "../../../runner/locks.ts";
import { makeTemporaryDirectory } from "../../support/temporary.ts";
import { change, createRandom, createTrees, populate, portrait, type Random, workInGit } from "./trees.ts";

/** How many random trees go through; the long form sets it, and looks for what nobody knows yet. */
const long = process.env["CARREL_TEST_TREES"];
const total = Number(long ?? 12);
const seed = Number(process.env["CARREL_TEST_SEED"] ?? (long === undefined ? 20_261_120 : Date.now() % 1_000_000_000));
const longestChain = 5;

const isRoot = process.geteuid?.() === 0;
const nobody = 65_534;
const directory = makeTemporaryDirectory("trees");
chmodSync(directory, 0o755);
const workspace = join(directory, "workspace");
const home = join(directory, "home");
const roots: Roots = {
  directories: [workspace, home],
  except: [join(workspace, ".memory")],
  unlocked: join(directory, "notes/unlocked"),
  first: [join(home, ".claude"), join(home, ".claude.json")],
  signs: [join(workspace, ".git")],
};
const forever = new AbortController().signal;

beforeEach(makeRoots);
afterEach(() => rmSync(workspace, { recursive: true }));
afterEach(() => rmSync(home, { recursive: true }));
afterAll(() => rmSync(directory, { recursive: true }));

function makeRoots(): void {
  for (const root of [...roots.directories, join(directory, "notes")]) {
    if (existsSync(root)) continue;
    mkdirSync(root);
    if (isRoot) chownSync(root, nobody, nobody);
  }
}

/** Nothing is locked for root, which no agent is. */
async function asAgent<T>(work: () => T): Promise<Awaited<T>> {
  if (!isRoot) return await work();
  process.setegid!(nobody);
  process.seteuid!(nobody);
  try {
    return await work();
  } finally {
    process.seteuid!(0);
    process.setegid!(0);
  }
}

async function packed(since: Listing | undefined): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  await asAgent(async () => {
    for await (const chunk of pack(roots, since, forever)) chunks.push(chunk);
  });
  return Buffer.concat(chunks);
}

/** As in a new sandbox: nothing is there. */
async function unpackedAnew(archives: readonly Buffer[], onFirst?: () => Promise<void>): Promise<Listing | undefined> {
  for (const root of roots.directories) renameSync(root, `${root}-before`);
  makeRoots();
  const sources = archives.map((archive) => () => pieces(archive));
  try {
    return await asAgent(() => unpack(sources, roots, onFirst));
  } finally {
    for (const root of roots.directories) rmSync(`${root}-before`, { recursive: true });
  }
}

async function* pieces(archive: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < archive.length; at += 10_000) yield archive.subarray(at, at + 10_000);
}

/** One tree through a chain of archives, with things that happen between. */
async function throughChain(treeSeed: number): Promise<{ archives: Buffer[]; entries: number; early: number; done: number }> {
  const random = createRandom(treeSeed);
  const trees = createTrees(random, roots.directories);
  const isWorkedOn = random.below(4) === 0;
  const archives: Buffer[] = [];
  let listing: Listing | undefined;
  let entries = 0;
  let early = 0;
  const length = 1 + random.below(longestChain);
  for (let member = 0; member < length; member += 1) {
    await asAgent(() => {
      if (isWorkedOn) workInGit(trees);
      if (member === 0) populate(trees, 20 + random.below(150));
      if (member === 0 && random.below(2) === 0) beAgent(random);
      change(trees, random.below(80));
    });
    const before = portrait(roots.directories);
    archives.push(await packed(listing));
    expect(portrait(roots.directories), `seed ${treeSeed}, packed`).toEqual(before);
    const firstBefore = portraitOfFirst();
    const isSign = statSync(join(workspace, ".git"), { throwIfNoEntry: false })?.isDirectory() ?? false;
    listing = await unpackedAnew(archives, async () => {
      early += 1;
      expect(portraitOfFirst(), `seed ${treeSeed}, first of member ${member}`).toEqual(firstBefore);
      expect(existsSync(join(workspace, ".git"))).toBe(isSign);
    });
    expect(portrait(roots.directories), `seed ${treeSeed}, member ${member}`).toEqual(before);
    entries += before.length;
  }
  return { archives, entries, early, done: trees.done };
}

/** What an agent keeps of its own, and reads as it starts. */
function beAgent(random: Random): void {
  mkdirSync(join(home, ".claude/projects/-workspace"), { recursive: true });
  writeFileSync(join(home, ".claude/projects/-workspace/conversation.jsonl"), random.bytes(5_000));
  writeFileSync(join(home, ".claude.json"), "{}");
}

/** But for modes: what is locked is locked when all is there. */
function portraitOfFirst(): unknown[] {
  return portrait([home])
    .map((line) => JSON.parse(line) as string[])
    .filter(([path]) => /^\/\.claude(\.json)?(\/|$)/.test(path!.slice(home.length)))
    .map(([path, , , size, , , content]) => [path, size, content]);
}

test("what is locked is locked again when packing stops early, or its runner dies of it", async () => {
  const random = createRandom(seed);
  await asAgent(() => {
    mkdirSync(join(workspace, "closed"));
    for (const name of ["closed/secret", "secret"]) writeFileSync(join(workspace, name), random.bytes(100_000), { mode: 0o200 });
    chmodSync(join(workspace, "closed"), 0o100);
  });
  const before = portrait(roots.directories);
  await asAgent(async () => {
    for await (const _piece of pack(roots, undefined, forever)) break;
  });
  expect(portrait(roots.directories)).toEqual(before);
  const stopped = AbortSignal.abort(new Error("woken"));
  await expect(asAgent(() => pack(roots, undefined, stopped).next())).rejects.toThrow("woken");
  const unlocked = await asAgent(() => unlock(roots));
  expect(unlocked).toHaveLength(3);
  expect(portrait(roots.directories)).not.toEqual(before);
  await asAgent(() => lockAgain(roots));
  await asAgent(() => lockAgain(roots));
  expect(portrait(roots.directories)).toEqual(before);
  const again = await asAgent(() => unlock(roots));
  rmSync(join(workspace, "secret"));
  await asAgent(() => lock(roots, again));
  expect(statSync(join(workspace, "closed/secret")).mode & 0o777).toBe(0o200);
  const after = portrait(roots.directories);
  const incomplete = { ...roots, directories: [...roots.directories, join(directory, "nowhere")] };
  await expect(asAgent(() => pack(incomplete, undefined, forever).next())).rejects.toThrow("nowhere");
  expect(portrait(roots.directories)).toEqual(after);
});

test("a change counts whichever way the clock was set, and nothing else does", async () => {
  const random = createRandom(seed);
  for (const name of ["same", "other"]) writeFileSync(join(workspace, name), random.bytes(1_000));
  const listing = await takeListing(roots);
  expect(await changesSince(listing!, roots)).toEqual({ present: [], past: [] });
  for (const shift of ["1", "9"]) {
    const plain = zstdDecompressSync(listing![0]!).toString("latin1");
    // As if the file had then been changed at another time: the record's time of change is the first with a fraction.
    const shifted = plain.replace(
      /(\d)(\d*\.\d+ \S+ \S*\/other\0)/,
      (_, digit: string, rest: string) => (digit === shift ? "5" : shift) + rest,
    );
    expect(shifted).not.toBe(plain);
    const changes = await changesSince([zstdCompressSync(Buffer.from(shifted, "latin1"))], roots);
    expect(changes).toEqual({ present: [workspace, join(workspace, "other")], past: [join(workspace, "other")] });
  }
});

test("of more than is worth holding in memory nothing is compared: all of it travels, in place of all that was", async () => {
  mkdirSync(join(workspace, "was"));
  for (const name of ["was/gone", "was/kept", "became a directory"]) writeFileSync(join(workspace, name), name);
  const whole = await packed(undefined);
  const listing = await unpackedAnew([whole]);
  rmSync(join(workspace, "was/gone"));
  rmSync(join(workspace, "became a directory"));
  mkdirSync(join(workspace, "became a directory"));
  // Few entries, and packed a listing of them would be small: but each has a path of almost 4 KB.
  const deep = join(workspace, ...Array.from({ length: 14 }, () => "d".repeat(250)));
  const count = Math.ceil((64 * 1024 * 1024) / deep.length);
  mkdirSync(deep, { recursive: true });
  for (let number = 0; number < count; number += 1) writeFileSync(`${deep}/${number}`, "");
  const before = portrait(roots.directories);
  expect(await takeListing(roots)).toBeUndefined();
  const { present, past } = await changesSince(listing!, roots);
  expect(present).toBeUndefined();
  expect(past.toSorted()).toEqual(["became a directory", "was", "was/gone", "was/kept"].map((name) => join(workspace, name)));
  await unpackedAnew([whole, await packed(listing)]);
  expect(portrait(roots.directories)).toEqual(before);
}, 120_000);

test("the names of one file stay together when only the directory of one of them has moved", async () => {
  mkdirSync(join(workspace, "moving"));
  writeFileSync(join(workspace, "moving/name"), "one content");
  linkSync(join(workspace, "moving/name"), join(workspace, "other name"));
  const whole = await packed(undefined);
  const listing = await unpackedAnew([whole]);
  renameSync(join(workspace, "moving"), join(workspace, "moved"));
  const before = portrait(roots.directories);
  await unpackedAnew([whole, await packed(listing)]);
  expect(portrait(roots.directories)).toEqual(before);
});

test("what the agent changes while its workspace is on the way goes into the next increment", async () => {
  asAgent(() => beAgent(createRandom(seed)));
  mkdirSync(join(workspace, ".git"));
  writeFileSync(join(workspace, "file"), "content");
  const whole = await packed(undefined);
  const listing = await unpackedAnew([whole], async () => {
    expect(existsSync(join(workspace, "file"))).toBe(false);
    writeFileSync(join(home, ".claude.json"), "{ }");
    writeFileSync(join(home, ".claude/projects/-workspace/other.jsonl"), "new");
    rmSync(join(home, ".claude/projects/-workspace/conversation.jsonl"));
  });
  const before = portrait(roots.directories);
  const increment = await packed(listing);
  await unpackedAnew([whole, increment]);
  expect(portrait(roots.directories)).toEqual(before);
});

test("nothing starts early from an agent's files that are links, or names of something else", async () => {
  asAgent(() => beAgent(createRandom(seed)));
  const whole = await packed(undefined);
  linkSync(join(home, ".claude.json"), join(home, "other name"));
  const before = portrait(roots.directories);
  for (const archives of [[await packed(undefined)], [whole, await packed(undefined)]]) {
    await unpackedAnew(archives, () => Promise.reject(new Error("started")));
    expect(portrait(roots.directories)).toEqual(before);
  }
});

test("an archive of a time without increments is unpacked, one that is cut or damaged is refused", async () => {
  writeFileSync(join(workspace, "file"), "content");
  const before = portrait(roots.directories);
  const whole = await packed(undefined);
  const tar = execFileSync("tar", ["-C", "/", "--format=posix", "-c", ...roots.directories.map((root) => root.slice(1))]);
  await unpackedAnew([zstdCompressSync(tar)]);
  expect(portrait(roots.directories)).toEqual(before);
  for (const length of [0, 10, whole.length >> 1, whole.length - 12])
    await expect(unpackedAnew([whole.subarray(0, length)]), `${length} bytes`).rejects.toThrow();
  await expect(unpackedAnew([whole, zstdCompressSync(Buffer.from("carrel-snap"))])).rejects.toThrow("tar ended");
  await expect(unpackedAnew([whole, zstdCompressSync(Buffer.from("something else"))])).rejects.toThrow("tar ended");
});

test(`${total} random trees come back to the last bit, whole and as a chain of increments`, async () => {
  const sum = { archives: 0, increments: 0, entries: 0, early: 0, done: 0 };
  for (let index = 0; index < total; index += 1) {
    if (index > 0) {
      for (const root of roots.directories) rmSync(root, { recursive: true });
      makeRoots();
    }
    const { archives, entries, early, done } = await throughChain(seed + index);
    sum.archives += archives.length;
    sum.increments += archives.length - 1;
    sum.entries += entries;
    sum.early += early;
    sum.done += done;
  }
  process.stdout.write(`trees from seed ${seed}: ${total}, ${JSON.stringify(sum)}\n`);
  expect(sum.increments).toBeGreaterThanOrEqual(Math.floor(total / 2));
  expect(sum.entries).toBeGreaterThan(total * 20);
  expect(sum.early).toBeGreaterThan(total / 4);
}, 3_600_000);
