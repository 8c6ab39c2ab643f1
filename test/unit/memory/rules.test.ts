import { describe, expect, test } from "vitest";
import { limits, problemOfEntry, problemOfPath, type Refused, textOf } from "../../../server/memory/rules.ts";

describe("a path of a memory bank", () => {
  const longest = `${"a".repeat(250)}/b.md`;
  test.each(["a", "notes.md", "A-Z_0.9", "a/b/c/d/e.md", "a..b", "trailing.", "-", longest.slice(-256), "x".repeat(256)])(
    "may be %s",
    (path) => {
      expect(problemOfPath(path)).toBeUndefined();
    },
  );

  test.each([
    "",
    "/",
    "/etc/passwd",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/..",
    ".hidden",
    "a/.hidden",
    "a/b/c/d/e/f",
    "a b",
    "a\\b",
    "a\0b",
    "a\nb",
    "é",
    "a:b",
    "~",
    "%2e%2e/a",
    "ａ",
    "a/\u202eb",
    "x".repeat(257),
  ])("may not be %j", (path) => {
    expect(problemOfPath(path)).toBeTypeOf("string");
  });
});

describe("a file beside what the bank holds", () => {
  const many = (count: number, size = 1) => Array.from({ length: count }, (_, index) => ({ path: `f${index}`, size }));
  const table: [string, { path: string; size: number }[], { path: string; size: number }, Refused | undefined][] = [
    ["is taken into an empty bank", [], { path: "a", size: 0 }, undefined],
    ["is taken as the 100th", many(99), { path: "a", size: 1 }, undefined],
    ["is refused as the 101st", many(100), { path: "a", size: 1 }, "too_many"],
    ["replaces one of a full bank", many(100), { path: "f7", size: 9 }, undefined],
    ["may have 64 KiB", [], { path: "a", size: limits.entryBytes }, undefined],
    ["may not have more", [], { path: "a", size: limits.entryBytes + 1 }, "too_large"],
    ["may fill 5 MiB", many(79, limits.entryBytes), { path: "a", size: limits.entryBytes }, undefined],
    ["may not pass 5 MiB", many(80, limits.entryBytes), { path: "a", size: 1 }, "bank_full"],
    ["does not count what it replaces", many(80, limits.entryBytes), { path: "f0", size: limits.entryBytes }, undefined],
    ["may not stand where a directory is", [{ path: "a/b", size: 1 }], { path: "a", size: 1 }, "path_conflict"],
    ["may not stand below a file", [{ path: "a", size: 1 }], { path: "a/b", size: 1 }, "path_conflict"],
    ["may begin like another", [{ path: "a", size: 1 }], { path: "ab", size: 1 }, undefined],
  ];
  test.each(table)("%s", (_name, bank, entry, outcome) => {
    expect(problemOfEntry(bank, entry)).toBe(outcome);
  });
});

test("content is UTF-8 and nothing of it is lost", () => {
  expect(textOf(Buffer.from("\ufeffgrün\0"))).toBe("\ufeffgrün\0");
  expect(textOf(Buffer.from([0x61, 0xff]))).toBeUndefined();
  expect(textOf(Buffer.from([0xed, 0xa0, 0x80]))).toBeUndefined();
});
