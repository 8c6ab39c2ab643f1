/** What the runner makes of a directory that somebody is playing with. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeEach, expect, test } from "vitest";
import { type MemoryChange, MemoryObstacleSchema } from "../../../gen/carrel/runner/v1/memory_pb.ts";
import { createMemory, type Memory } from "../../../runner/memory.ts";
import { makeTemporaryDirectory, removeDirectory } from "../../support/temporary.ts";

const root = makeTemporaryDirectory("memory");
let directory: string;
let runs = 0;
let sent: Record<string, string>[];
let refusing: Set<string>;
let memory: Memory;

afterAll(() => removeDirectory(root));
beforeEach(() => {
  directory = join(root, `run-${(runs += 1)}`, ".memory");
  mkdirSync(join(directory, ".."));
  [sent, refusing] = [[], new Set()];
  memory = open();
});

function open(): Memory {
  return createMemory(
    directory,
    (changes) => {
      sent.push(Object.fromEntries(changes.map((change) => [change.path, wordOf(change)])));
      return Promise.resolve({ refused: changes.filter(({ path }) => refusing.has(path)).map(({ path }) => ({ path })) });
    },
    (error) => {
      throw error;
    },
  );
}

function wordOf({ kind }: MemoryChange): string {
  if (kind.case === "content") return Buffer.from(kind.value).toString();
  return kind.case === "removal" ? "removed" : MemoryObstacleSchema.value[kind.value ?? 0]!.localName;
}

const file = (path: string, content: string) => ({ path, content: Buffer.from(content) }) as never;
const write = (path: string, content: string) => writeFileSync(join(directory, path), content);

/** All that one more look brings back. */
async function brought(): Promise<Record<string, string>> {
  sent = [];
  await memory.finish();
  return Object.assign({}, ...sent) as Record<string, string>;
}

test("the directory holds exactly the bank, whatever was there", async () => {
  mkdirSync(join(directory, "closed"), { recursive: true });
  write("closed/old", "x");
  symlinkSync("/etc", join(directory, "link"));
  chmodSync(join(directory, "closed"), 0o500);
  await memory.write([file("a.md", "one"), file("d/e/f.md", "two")]);
  expect(readdirSync(directory, { recursive: true }).sort()).toEqual(["a.md", "d", "d/e", "d/e/f.md"]);
  expect(readFileSync(join(directory, "d/e/f.md"), "utf8")).toBe("two");
  expect(await brought()).toEqual({});
});

test("a directory that was replaced by a link is written as a directory", async () => {
  const elsewhere = join(root, "elsewhere");
  mkdirSync(elsewhere);
  writeFileSync(join(elsewhere, "kept"), "kept");
  symlinkSync(elsewhere, directory);
  await memory.write([file("a", "1")]);
  expect(readdirSync(elsewhere)).toEqual(["kept"]);
  expect(readdirSync(directory)).toEqual(["a"]);
});

test("what is made, edited and removed comes back, and only that", async () => {
  await memory.write([file("kept", "k"), file("edited", "before"), file("removed", "r")]);
  write("edited", "after!");
  mkdirSync(join(directory, "new"));
  write("new/note.md", "n");
  rmSync(join(directory, "removed"));
  expect(await brought()).toEqual({ edited: "after!", "new/note.md": "n", removed: "removed" });
  expect(await brought()).toEqual({});
});

test("what is no file is named and not read, and hides nothing that is known", async () => {
  await memory.write([file("d/known", "k"), file("swapped", "s"), file("big", "b")]);
  for (const path of ["d", "swapped"]) rmSync(join(directory, path), { recursive: true });
  symlinkSync("/etc", join(directory, "d"));
  symlinkSync("/etc/passwd", join(directory, "swapped"));
  execFileSync("sh", ["-c", `mkfifo "$0"`, join(directory, "fifo")]);
  write(".dot", "x");
  write("white space", "x");
  write("..tricky", "x");
  write("big", "x".repeat(65_537));
  write("shut", "s");
  chmodSync(join(directory, "shut"), 0o000);
  write("fine", "f");
  expect(await brought()).toEqual({
    d: "NOT_A_FILE",
    swapped: "NOT_A_FILE",
    fifo: "NOT_A_FILE",
    ".dot": "BAD_NAME",
    "white space": "BAD_NAME",
    "..tricky": "BAD_NAME",
    big: "TOO_LARGE",
    shut: "NOT_A_FILE",
    fine: "f",
  });
  expect(await brought()).toEqual({});
});

test("however often a directory is swapped for a link while it is read, nothing from outside is", async () => {
  const outside = join(directory, "../outside");
  mkdirSync(outside);
  writeFileSync(join(outside, "f"), "secret");
  await memory.write([file("d/f", "own")]);
  const flip = `for (let end = Date.now() + 1500; Date.now() < end;) { fs.renameSync("d", "e"); fs.symlinkSync("../outside", "d"); fs.unlinkSync("d"); fs.renameSync("e", "d"); fs.writeFileSync("d/f", "own" + Date.now() % 7); }`;
  const flipping = spawn(process.execPath, ["-e", flip], { cwd: directory, stdio: "inherit" });
  const exited = once(flipping, "exit");
  const contents = new Set<string>();
  while (flipping.exitCode === null) for (const word of Object.values(await brought())) contents.add(word);
  expect(await exited).toEqual([0, null]);
  expect(contents).not.toContain("secret");
  expect([...contents].some((word) => word.startsWith("own"))).toBe(true);
});

test("a directory that is away deletes nothing", async () => {
  await memory.write([file("a", "1")]);
  renameSync(directory, `${directory}-aside`);
  expect(await brought()).toEqual({ ".": "NOT_A_FILE" });
  symlinkSync("/etc", directory);
  expect(await brought()).toEqual({});
  rmSync(directory);
  renameSync(`${directory}-aside`, directory);
  rmSync(join(directory, "a"));
  expect(await brought()).toEqual({ a: "removed" });
});

test("of very many files 101 come, those of the bank first, and a look has an end", async () => {
  await memory.write([file("zzz", "before")]);
  for (let index = 0; index < 1_500; index += 1) write(`f${index}`, "x");
  write("zzz", "after");
  const found = await brought();
  expect(Object.values(found).filter((word) => word === "x").length).toBeLessThanOrEqual(101);
  expect(Object.values(found)).toContain("TOO_MANY");
  for (let index = 900; index < 1_500; index += 1) rmSync(join(directory, `f${index}`));
  expect({ ...found, ...(await brought()) }).toMatchObject({ zzz: "after" });
});

test("what was refused is told once, and again when there is room", async () => {
  await memory.write([file("a", "1")]);
  refusing.add("late");
  write("late", "x");
  expect(await brought()).toEqual({ late: "x" });
  expect(await brought()).toEqual({});
  rmSync(join(directory, "a"));
  refusing.clear();
  expect(await brought()).toEqual({ a: "removed", late: "x" });
});

test("a change is brought back by itself soon after it came to rest", async () => {
  await memory.write([]);
  memory.watch();
  write("note.md", "hello");
  await expect.poll(() => sent, { timeout: 5_000 }).toEqual([{ "note.md": "hello" }]);
  await memory.finish();
});
