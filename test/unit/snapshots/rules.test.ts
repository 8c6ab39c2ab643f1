import { describe, expect, test } from "vitest";
import { chainOf, forkPoints, nextBase, oldestNeeded } from "../../../server/snapshots/rules.ts";

/** Generations from 1, each with its bytes; those without a base hold everything. */
const snapshots = (...all: { base?: number; bytes?: number; seq?: number }[]) =>
  all.map(({ base, bytes = 1, seq = 0 }, index) => ({ generation: index + 1, base_generation: base ?? null, bytes, seq }));
const generations = (chain: readonly { generation: number }[]) => chain.map(({ generation }) => generation);

describe("a chain", () => {
  const some = snapshots({}, { base: 1 }, {}, { base: 3 }, { base: 4 });

  test.each([
    [1, [1]],
    [2, [1, 2]],
    [3, [3]],
    [5, [3, 4, 5]],
    [6, []],
  ])("that ends with %i is %j", (generation, chain) => expect(generations(chainOf(some, generation))).toEqual(chain));

  test("that lacks a member is none", () => expect(chainOf(some.slice(3), 5)).toEqual([]));
});

describe("the next one is an increment", () => {
  const whole = { bytes: 100 };

  test.each([
    ["to nothing, for a first", [], 0],
    ["to one that holds everything", [whole], 1],
    ["to another increment", [whole, { base: 1, bytes: 10 }], 2],
    ["while they are half of the whole", [whole, { base: 1, bytes: 20 }, { base: 2, bytes: 30 }], 3],
    ["no longer once they are more", [whole, { base: 1, bytes: 20 }, { base: 2, bytes: 31 }], 0],
    ["while there are less than eight", [whole, ...[1, 2, 3, 4, 5, 6].map((base) => ({ base }))], 7],
    ["no longer after eight", [whole, ...[1, 2, 3, 4, 5, 6, 7].map((base) => ({ base }))], 0],
  ])("%s", (_, chain, base) => expect(nextBase(snapshots(...chain))).toBe(base));
});

test.each([
  [1, 1],
  [2, 1],
  [3, 3],
  [5, 3],
  [6, 6],
])("to bring back everything from generation %i on, nothing before %i is needed", (kept, needed) => {
  const some = snapshots({}, { base: 1 }, {}, { base: 3 }, { base: 4 }, {});
  expect(oldestNeeded(some, kept)).toBe(needed);
});

test("what a session began with is one point to fork at, of however many snapshots it is made", () => {
  const some = snapshots({}, { base: 1 }, { base: 2, seq: 7 }, { base: 3, seq: 9 });
  expect(generations(forkPoints(some))).toEqual([2, 3, 4]);
});
