import { expect, test } from "vitest";
import { gather } from "../../../server/db/gather.ts";

const turn = () => new Promise(setImmediate);

function gathering(load: (asked: readonly number[]) => Promise<ReadonlyMap<string, string>>) {
  const looks: number[][] = [];
  const find = gather(String, (asked: readonly number[]) => {
    looks.push([...asked]);
    return load(asked);
  });
  return { find, looks };
}

const named = (asked: readonly number[]) =>
  Promise.resolve(new Map(asked.filter((one) => one < 10).map((one) => [String(one), `found ${one}`])));

test("what is asked for in one turn is one look, each thing once, and everybody gets their own", async () => {
  const { find, looks } = gathering(named);
  const soon = Promise.resolve().then(() => find(3));
  expect(await Promise.all([find(1), find(2), find(1), soon, find(99)])).toEqual(["found 1", "found 2", "found 1", "found 3", undefined]);
  expect(looks).toEqual([[1, 2, 99, 3]]);
});

test("who asks after a look has begun is not answered by it", async () => {
  let value = "before";
  const { promise: held, resolve: release } = Promise.withResolvers<void>();
  const { find, looks } = gathering(async (asked) => {
    const seen = value;
    await held;
    return new Map(asked.map((one) => [String(one), seen]));
  });
  const first = find(1);
  await turn();
  value = "after";
  const second = find(1);
  await turn();
  release();
  expect([await first, await second, looks]).toEqual(["before", "after", [[1], [1]]]);
});

test.each([
  ["rejects", () => Promise.reject(new Error("away"))],
  [
    "throws",
    () => {
      throw new Error("away");
    },
  ],
])("a look that %s fails for all who asked together, and for nobody else", async (_how, fail) => {
  let failing = true;
  const { find } = gathering((asked) => (failing ? fail() : named(asked)));
  const both = await Promise.allSettled([find(1), find(2)]);
  expect(both.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  failing = false;
  expect(await find(1)).toBe("found 1");
});
