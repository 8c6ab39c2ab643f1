import { expect, test } from "vitest";
import { createKnownSessions } from "../../../server/journal/known.ts";
import type { SessionCore } from "../../../server/journal/store.ts";

const mebibyte = 1024 * 1024;
const written = { version: "1", at: new Date() };
const rowOf = (id: string, columns: Partial<SessionCore>) => ({ id, state: "running", ...columns }) as SessionCore;

/** Remembers `count` rows like this one and answers which of them are still known. */
function rememberedOf(count: number, columns: Partial<SessionCore>): number[] {
  const known = createKnownSessions();
  for (let number = 0; number < count; number += 1) known.remember(rowOf(`${number}`, columns), written);
  return Array.from({ length: count }, (_, number) => number).filter((number) => known.take(`${number}`) !== undefined);
}

test("of small rows a thousand are kept, those that were asked for last", () => {
  const kept = rememberedOf(1_010, { settings: Buffer.alloc(100) });
  expect([kept.length, kept[0]]).toEqual([1_000, 10]);
});

test("of large ones as many as sixteen mebibytes hold, whatever makes them large", () => {
  for (const columns of [{ settings: Buffer.alloc(mebibyte) }, { allowed_tools: Array.from({ length: 16 }, () => "x".repeat(32_768)) }]) {
    const kept = rememberedOf(100, columns);
    expect([kept.length, kept.at(-1)]).toEqual([15, 99]);
  }
  expect(rememberedOf(3, { settings: Buffer.alloc(17 * mebibyte) }), "one that is too large alone").toEqual([]);
});

test("what is taken, replaced or ended makes room again", () => {
  const known = createKnownSessions();
  const large = { settings: Buffer.alloc(6 * mebibyte) };
  known.remember(rowOf("small", {}), written);
  for (let times = 0; times < 10; times += 1) {
    known.remember(rowOf("replaced", large), written);
    known.remember(rowOf("ended", large), written);
    known.remember(rowOf("ended", { ...large, state: "ended" }), written);
    known.remember(rowOf("taken", large), written);
    expect(known.take("taken")?.row.settings?.length).toBe(6 * mebibyte);
  }
  expect(known.take("small")?.row.id).toBe("small");
  expect(known.take("ended")).toBeUndefined();
});
