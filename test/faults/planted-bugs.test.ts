/** Bugs are planted in a copy of the server; a test that does not fail for its bug proves nothing about the server without it. */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { databaseUrl } from "../support/carrel.ts";
import { type PlantedBug, plantedBugs } from "./planted/bugs.ts";
import { type Copy, copyCheckout } from "./planted/copy.ts";

/** The short form plants these; the long form all. */
const short = ["a row that somebody else has changed is overwritten", "an archive is removed although its row names it"];
const chosen = process.env["CARREL_TEST_PLANTED"] === "all" ? plantedBugs : plantedBugs.filter(({ what }) => short.includes(what));

let copy: Copy;

beforeAll(() => {
  copy = copyCheckout(databaseUrl(inject("postgres").server));
});
afterAll(() => copy?.remove());

test("each bug has one place in the server as it is now", () => {
  const places = ({ file, find }: PlantedBug) => readFileSync(new URL(`../../${file}`, import.meta.url), "utf8").split(find).length - 1;
  expect(plantedBugs.filter((bug) => places(bug) !== 1).map(({ what }) => what)).toEqual([]);
});

test("without a bug nothing fails", async () => {
  const { passed, failed, broken } = await copy.run([...chosen]);
  expect([failed, broken]).toEqual([[], []]);
  expect(chosen.filter(({ named }) => !passed.some((name) => name.includes(named)))).toEqual([]);
}, 180_000);

test.each(chosen.map((bug) => [bug.what, bug] as const))(
  "it is found that %s",
  async (_what, bug) => {
    copy.plant(bug);
    try {
      const { failed, broken } = await copy.run([bug]);
      expect(broken).toEqual([]);
      expect(failed.length).toBeGreaterThan(0);
    } finally {
      copy.pull(bug);
    }
  },
  120_000,
);
