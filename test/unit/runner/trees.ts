/** Random directory trees, random things that happen to them, and what they look like to the last bit. */
import { execFileSync, type StdioOptions } from "node:child_process";
import { createHash } from "node:crypto";
import {
  appendFileSync,
  type BigIntStats,
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";

/** Reproducible: the same seed makes the same choices. */
export type Random = {
  below(limit: number): number;
  one<T>(of: readonly T[]): T;
  bytes(length: number): Buffer;
};

export function createRandom(seed: number): Random {
  let state = seed | 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (limit: number): number => Math.floor(next() * limit);
  return {
    below,
    one: (of) => of[below(of.length)]!,
    bytes: (length) => Buffer.from(Array.from({ length }, () => below(256))),
  };
}

/** Paths are bytes, each a character, as the kernel has them. */
const bytesOf = (path: string): Buffer => Buffer.from(path, "latin1");

const oddNames = [
  "two\nlines",
  "\xff\xfe no text",
  "-rf",
  "--checkpoint-action=exec=false",
  " spaces ",
  "back\\slash\\n",
  "st*r [a] ?",
  "quote'\"",
  "@file",
  "#hash",
  "tab\tbell\x07",
  "n".repeat(255),
  "\xc3\xa4\xc3\xb6\xc3\xbc",
  "%s %m",
  "...",
];
const plainNames = ["a", "b", "c", "d", "e", "a-b", "a.b", "ab"];
const modes = [0o644, 0o600, 0o755, 0o444, 0o400, 0o000, 0o200, 0o111, 0o2755, 0o4755, 0o1777, 0o666];
const directoryModes = [0o755, 0o700, 0o555, 0o000, 0o300, 0o600, 0o1777, 0o2755, 0o111];

type Trees = {
  random: Random;
  roots: readonly string[];
  /** How many of the things that were tried have happened: what is locked cannot be changed. */
  done: number;
};

export function createTrees(random: Random, roots: readonly string[]): Trees {
  return { random, roots, done: 0 };
}

/** Anything that exists, without the roots. */
function everything({ roots }: Trees): { path: string; stats: BigIntStats }[] {
  const found: { path: string; stats: BigIntStats }[] = [];
  const visit = (directory: string): void => {
    for (const name of namesIn(directory)) {
      const path = `${directory}/${name}`;
      const stats = lstatSync(bytesOf(path), { bigint: true, throwIfNoEntry: false });
      // In a directory that may be read and not entered.
      if (!stats) continue;
      found.push({ path, stats });
      if (stats.isDirectory() && !path.endsWith("/.git")) visit(path);
    }
  };
  roots.forEach(visit);
  return found;
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(bytesOf(directory), { encoding: "buffer" })
      .map((name) => name.toString("latin1"))
      .toSorted();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EACCES") return [];
    throw error;
  }
}

/** What a program that is not root cannot do, or that makes no sense just there. */
const programFailed = "a program failed";
const expected = new Set([
  programFailed,
  "EACCES",
  "EPERM",
  "EEXIST",
  "ENOTEMPTY",
  "EINVAL",
  "EISDIR",
  "ENOTDIR",
  "ENOENT",
  "ENAMETOOLONG",
  "ELOOP",
]);

/** Fills the roots with files and directories, to begin with. */
export function populate(trees: Trees, count: number): void {
  for (let index = 0; index < count; index += 1) attempt(trees, trees.random.one(happenings.slice(0, 4)));
}

/** Tries that many random things. */
export function change(trees: Trees, count: number): void {
  for (let index = 0; index < count; index += 1) attempt(trees, trees.random.one(happenings));
}

/** Leaves a repository in the middle of work. */
export function workInGit(trees: Trees): void {
  attempt(trees, commitAndGoOn);
}

function attempt(trees: Trees, happening: (trees: Trees) => void): void {
  try {
    happening(trees);
    trees.done += 1;
  } catch (error) {
    if (!expected.has((error as NodeJS.ErrnoException).code ?? "")) throw error;
  }
}

function directoryIn(trees: Trees): string {
  const directories = everything(trees).filter(({ stats }) => stats.isDirectory());
  return trees.random.one([...trees.roots, ...directories.map(({ path }) => path)]);
}

function newPath(trees: Trees): string {
  const name = trees.random.below(4) === 0 ? trees.random.one(oddNames) : trees.random.one(plainNames);
  return `${directoryIn(trees)}/${name}`;
}

function existing(trees: Trees, fits: (stats: BigIntStats) => boolean = () => true): string {
  const found = everything(trees).filter(({ stats }) => fits(stats));
  return found.length === 0 ? `${trees.roots[0]}/nothing here` : trees.random.one(found).path;
}

const isFile = (stats: BigIntStats): boolean => stats.isFile();
const isDirectory = (stats: BigIntStats): boolean => stats.isDirectory();

/** A time of any age, to the nanosecond, also of a link. */
function setTime({ random }: Trees, path: string, time = `${random.below(2_000_000_000) - 100_000_000}.${random.below(1e9)}`): void {
  touch(path, `@${time}`);
}

function touch(path: string, date: string): void {
  // The name comes by standard input, because arguments of programs are text here.
  run(["xargs", "-0", "touch", "-h", "-c", "-d", date, "--"], bytesOf(path));
}

/** Nobody's settings, and the same names for the same objects each time. */
const gitEnvironment = { GIT_CONFIG_GLOBAL: "/dev/null", GIT_AUTHOR_DATE: "@1700000000 +0000", GIT_COMMITTER_DATE: "@1700000000 +0000" };

function run([program, ...args]: string[], input?: Uint8Array): void {
  try {
    const stdio: StdioOptions = [input ? "pipe" : "ignore", "ignore", "pipe"];
    execFileSync(program!, args, { stdio, env: { ...process.env, ...gitEnvironment }, ...(input ? { input } : {}) });
  } catch (error) {
    throw Object.assign(error as Error, { code: programFailed });
  }
}

function removeAll(path: string): void {
  const bytes = bytesOf(path);
  if (!lstatSync(bytes).isDirectory()) return unlinkSync(bytes);
  for (const name of namesIn(path)) removeAll(`${path}/${name}`);
  rmdirSync(bytes);
}

/** What can happen to a tree; the more important, the more often. */
const happenings: ((trees: Trees) => void)[] = [
  (trees) => writeFileSync(bytesOf(newPath(trees)), trees.random.bytes(trees.random.below(3_000)), { flag: "wx" }),
  (trees) => writeFileSync(bytesOf(newPath(trees)), "", { flag: "wx" }),
  (trees) => mkdirSync(bytesOf(newPath(trees))),
  (trees) => mkdirSync(bytesOf(newPath(trees))),
  (trees) => appendFileSync(bytesOf(existing(trees, isFile)), trees.random.bytes(50)),
  overwriteUnseen,
  (trees) => truncateSync(bytesOf(existing(trees, isFile)), trees.random.below(500_000)),
  (trees) => chmodSync(bytesOf(existing(trees, isFile)), trees.random.one(modes)),
  (trees) => chmodSync(bytesOf(existing(trees, isDirectory)), trees.random.one(directoryModes)),
  (trees) => unlinkSync(bytesOf(existing(trees, (stats) => !stats.isDirectory()))),
  (trees) => removeAll(existing(trees)),
  (trees) => renameSync(bytesOf(existing(trees)), bytesOf(newPath(trees))),
  (trees) => renameSync(bytesOf(existing(trees, isDirectory)), bytesOf(newPath(trees))),
  (trees) => renameSync(bytesOf(existing(trees)), bytesOf(existing(trees))),
  swap,
  (trees) => linkSync(bytesOf(existing(trees, isFile)), bytesOf(newPath(trees))),
  breakLink,
  (trees) => symlinkSync(bytesOf(trees.random.one(["nowhere", "/etc", "..", "a", "./b/../c", "\xff"])), bytesOf(newPath(trees))),
  (trees) => symlinkSync(bytesOf(existing(trees)), bytesOf(newPath(trees))),
  (trees) => becomeAnother(trees),
  (trees) => becomeAnother(trees),
  (trees) => setTime(trees, existing(trees)),
  (trees) => run(["xargs", "-0", "mkfifo", "--"], bytesOf(newPath(trees))),
  hollow,
];

/** Other bytes of the same number, and the times of before. */
function overwriteUnseen(trees: Trees): void {
  const path = existing(trees, isFile);
  const { size, mtimeNs } = lstatSync(bytesOf(path), { bigint: true });
  if (size > 10_000n) return;
  writeFileSync(bytesOf(path), trees.random.bytes(Number(size)));
  const [seconds, nanoseconds] = [mtimeNs / 1_000_000_000n, mtimeNs % 1_000_000_000n];
  if (mtimeNs >= 0n) setTime(trees, path, `${seconds}.${String(nanoseconds).padStart(9, "0")}`);
}

/** Two change names, which leaves a tree with the same paths. */
function swap(trees: Trees): void {
  const [one, other] = [existing(trees), existing(trees)];
  const aside = `${trees.roots[0]}/aside`;
  if (one === other || `${other}/`.startsWith(`${one}/`) || `${one}/`.startsWith(`${other}/`)) return;
  renameSync(bytesOf(one), bytesOf(aside));
  try {
    renameSync(bytesOf(other), bytesOf(one));
    renameSync(bytesOf(aside), bytesOf(other));
  } catch (error) {
    renameSync(bytesOf(aside), bytesOf(one));
    throw error;
  }
}

/** As editors save: a new file takes the name. */
function breakLink(trees: Trees): void {
  const path = existing(trees, isFile);
  const aside = `${trees.roots[0]}/saving`;
  writeFileSync(bytesOf(aside), "saved");
  renameSync(bytesOf(aside), bytesOf(path));
}

/** What was one kind of entry is another. */
function becomeAnother(trees: Trees): void {
  const path = existing(trees);
  removeAll(path);
  trees.random.one([
    () => writeFileSync(bytesOf(path), "a file now"),
    () => symlinkSync(bytesOf(existing(trees, isDirectory)), bytesOf(path)),
    () => {
      mkdirSync(bytesOf(path));
      writeFileSync(bytesOf(`${path}/a`), "in what is a directory now");
    },
  ])();
}

function hollow(trees: Trees): void {
  const path = newPath(trees);
  writeFileSync(bytesOf(path), "begin", { flag: "wx" });
  truncateSync(bytesOf(path), 1_000_000 + trees.random.below(3_000_000));
  if (trees.random.below(2) === 0) appendFileSync(bytesOf(path), "end");
}

/** Something committed, something staged, something changed, something stashed. */
function commitAndGoOn(trees: Trees): void {
  const directory = `${trees.roots[0]}/repository`;
  const git = (...args: string[]) =>
    run(["git", "-C", directory, "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "gc.auto=0", ...args]);
  const edit = (name: string): void => {
    const path = `${directory}/${name}`;
    // Opening what has become a FIFO would wait for ever.
    if (lstatSync(path, { throwIfNoEntry: false })?.isFile() === false) removeAll(path);
    appendFileSync(path, trees.random.bytes(100).toString("hex"));
  };
  mkdirSync(directory, { recursive: true });
  git("init", "-q");
  for (const name of ["one", "two", "three"]) edit(name);
  git("add", "one", "two");
  git("commit", "-qm", "a commit");
  edit("one");
  git("stash", "-q");
  edit("two");
  git("add", "two");
  edit("two");
}

/** Everything there is to know of the trees but inode numbers and times of access and change, one line an entry. */
export function portrait(roots: readonly string[]): string[] {
  const lines: string[] = [];
  const first = new Map<bigint, string>();
  const visit = (path: string): void => {
    const bytes = bytesOf(path);
    const stats = lstatSync(bytes, { bigint: true });
    if (stats.isSocket()) return;
    const twin = stats.nlink > 1n && !stats.isDirectory() ? (first.get(stats.ino) ?? path) : "";
    if (twin === path) first.set(stats.ino, path);
    const content = stats.isFile() ? createHash("sha256").update(readFileSync(bytes)).digest("hex") : "";
    const target = stats.isSymbolicLink() ? readlinkSync(bytes, "buffer").toString("latin1") : "";
    const size = stats.isDirectory() ? "" : `${stats.size}${stats.blocks * 512n < stats.size - 500_000n ? " hollow" : ""}`;
    lines.push(JSON.stringify([path, stats.mode.toString(8), stats.mtimeNs.toString(), size, twin, target, content]));
    if (stats.isDirectory()) for (const name of namesIn(path)) visit(`${path}/${name}`);
  };
  roots.forEach(visit);
  return lines;
}
