/** The short form of `npm run faults`: a workload under a nemesis, and its history judged. */
import { expect, test } from "vitest";
import { damageOf } from "./report.ts";
import { play, scenarios } from "./scenarios.ts";

const times = Number(process.env["CARREL_TEST_FAULTS"] ?? 6);
const seed = Number(process.env["CARREL_TEST_SEED"] ?? Date.now() % 1_000_000);

test("control plane, sandboxes, Postgres and networks fail in turn while people work: nothing is lost, doubled, stuck or left", async () => {
  const { violations, figures, struck } = await play(scenarios.find(({ name }) => name === "mixed")!, times, seed, 2);
  console.info(`faults, seed ${seed}: ${JSON.stringify({ ...figures, ...struck, damage: damageOf(violations) })}`);
  expect(violations).toEqual([]);
  expect(figures.acknowledged).toBeGreaterThan(0);
}, 240_000);
