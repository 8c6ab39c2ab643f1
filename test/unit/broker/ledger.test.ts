import fc from "fast-check";
import { expect, test } from "vitest";
import { createLedger, type LedgerDeps } from "../../../server/broker/ledger.ts";
import { createLiveSessions } from "../../../server/broker/live-sessions.ts";
import type { PhantomSession } from "../../../server/broker/phantom.ts";
import { costMicros, readPriceTable } from "../../../server/broker/prices.ts";
import { noUsage, type UsageTally } from "../../../server/journal/tables.ts";

type Fate = "done" | "refused" | "lost before the commit" | "lost after the commit" | "broken";

const usage = { input_tokens: 10, output_tokens: 5, cache_creation_input_tokens: 0, cache_read_input_tokens: 0 };
const request = { subAgent: false, counted: true };
const phantom = { sessionId: "ses_1" } as PhantomSession;

/** A ledger over one session whose transactions end as told, in turn; afterwards they succeed. */
function ledgerOver(fates: Fate[]) {
  const row = { state: "running", usage: noUsage as UsageTally, turn_usage: noUsage as UsageTally, model_requests: 0 };
  const booked: unknown[] = [];
  const failure = (code: string) => Object.assign(new Error(code), { code });
  const journal = {
    async change(_id: string, guard: (session: typeof row) => typeof row, body: (change: object) => void) {
      const fate = fates.shift() ?? "done";
      if (fate === "refused") throw failure("57P03");
      if (fate === "broken") throw failure("23505");
      const draft = { ...guard(row) };
      const appended: unknown[] = [];
      body({ session: draft, set: (values: object) => Object.assign(draft, values), append: (event: unknown) => appended.push(event) });
      if (fate === "lost before the commit") throw failure("57P01");
      Object.assign(row, draft);
      booked.push(...appended);
      if (fate === "lost after the commit") throw failure("08006");
    },
  };
  const deps = {
    journal,
    prices: readPriceTable(undefined),
    hashToken: () => new Uint8Array(),
    live: createLiveSessions(),
    poke: () => undefined,
    db: undefined,
  } as unknown as LedgerDeps;
  return { ledger: createLedger(deps), row, booked };
}

const table: Fate[][] = [
  [],
  ["refused", "refused"],
  ["lost before the commit"],
  ["lost after the commit"],
  ["lost after the commit", "refused", "lost before the commit"],
  ["lost before the commit", "lost after the commit"],
];
for (const fates of table) {
  test(`usage is booked once when the database says: ${[...fates, "done"].join(", ")}`, async () => {
    const { ledger, row, booked } = ledgerOver([...fates]);
    await ledger.recordUsage(phantom, { model: "claude-sonnet-4-5", usage }, request);
    expect([row.usage.input_tokens, row.usage.output_tokens, booked.length, row.model_requests]).toEqual([10, 5, 1, 1]);
  });
}

test("bookings of one session at once are all there, also when the answer to one is lost", async () => {
  const { ledger, row, booked } = ledgerOver(["done", "lost after the commit", "refused", "lost before the commit"]);
  await Promise.all(Array.from({ length: 5 }, () => ledger.recordUsage(phantom, { model: "claude-sonnet-4-5", usage }, request)));
  expect([row.usage.input_tokens, booked.length, row.model_requests]).toEqual([50, 5, 5]);
});

test("an error that would come again is told, and the next booking goes on", async () => {
  const { ledger, row } = ledgerOver(["broken"]);
  await expect(ledger.recordUsage(phantom, { model: "claude-sonnet-4-5", usage }, request)).rejects.toThrow("23505");
  await ledger.recordUsage(phantom, { model: "claude-sonnet-4-5", usage }, request);
  expect(row.usage.input_tokens).toBe(10);
});

function total<T>(all: readonly T[], count: (one: T) => number): number {
  return all.reduce((sum, one) => sum + count(one), 0);
}

const prices = readPriceTable(undefined);
const anyFates = fc.array(fc.constantFrom<Fate>("done", "refused", "lost before the commit", "lost after the commit", "broken"), {
  maxLength: 8,
});
const anyCount = fc.integer({ min: 0, max: 200_000 });
const anyUsage = fc.record({
  input_tokens: anyCount,
  output_tokens: anyCount,
  cache_creation_input_tokens: anyCount,
  cache_read_input_tokens: anyCount,
});
const anyBooking = fc.record({
  usage: anyUsage,
  model: fc.constantFrom("claude-opus-5", "claude-haiku-4-5", "of nobody"),
  subAgent: fc.boolean(),
});

test("whatever the database does, the bill is the sum of the log and no booking is missing or doubled", async () => {
  const cases = fc.sample(fc.tuple(anyFates, fc.array(anyBooking, { minLength: 1, maxLength: 6 })), 100);
  await Promise.all(
    cases.map(async ([fates, bookings]) => {
      const { ledger, row, booked } = ledgerOver([...fates]);
      await Promise.allSettled(
        bookings.map(({ model, usage: spent, subAgent }) =>
          ledger.recordUsage(phantom, { model, usage: spent }, { subAgent, counted: true }),
        ),
      );
      const about = JSON.stringify({ fates, bookings });
      const logged = (booked as { value: { usage: { inputTokens: number; outputTokens: number }; costUsd: number } }[]).map(
        (event) => event.value,
      );
      expect(row.usage.input_tokens, about).toBe(total(logged, ({ usage: spent }) => spent.inputTokens));
      expect(row.usage.output_tokens, about).toBe(total(logged, ({ usage: spent }) => spent.outputTokens));
      expect(row.usage.cost_micros, about).toBe(total(logged, ({ costUsd }) => Math.round(costUsd * 1e6)));
      expect(row.turn_usage, about).toEqual(row.usage);
      expect(logged.length, about).toBeLessThanOrEqual(bookings.length);
      // An error that comes again may hide a commit whose answer was lost before it.
      if (fates.includes("broken")) return;
      expect(logged.length, about).toBe(bookings.length);
      expect(row.usage.cost_micros, about).toBe(total(bookings, ({ model, usage: spent }) => costMicros(prices, model, spent)));
      expect(row.model_requests, about).toBe(bookings.filter(({ subAgent }) => !subAgent).length);
    }),
  );
}, 20_000);
