import { setTimeout as sleep } from "node:timers/promises";
import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import { passingFailure } from "../db/failures.ts";
import { requestEnd } from "../journal/ends.ts";
import type { Journal } from "../journal/journal.ts";
import type { UsageTally } from "../journal/tables.ts";
import { usageMessage } from "../journal/turns.ts";
import type { PhantomSession } from "./model-gateway.ts";
import type { Cap, ModelRequest } from "./caps.ts";
import { costMicros, type PriceTable } from "./prices.ts";
import { findPhantomSession } from "./store.ts";
import type { Metered } from "./usage-meter.ts";

export type LedgerDeps = { db: Kysely<Database>; journal: Journal; prices: PriceTable; hashToken(token: string): Uint8Array; poke(sessionId: string): void };

/** A booking is tried again for this long while the database is away. */
const patienceMs = 120_000;

/** Who may spend, and what was spent: from the provider's own answers, in the session's log. */
export function createLedger(deps: LedgerDeps) {
  const bookings = new Map<string, Promise<void>>();
  return {
    findPhantom: (token: string): Promise<PhantomSession | undefined> => findPhantomSession(deps.db, deps.hashToken(token)),
    /** Ends a session at its cap, with a word that people see. */
    async endAtCap(session: PhantomSession, { subtype, message }: Cap): Promise<void> {
      await deps.journal.change(session.sessionId, (row) => row ?? gone(session.sessionId), (change) => {
        if (change.session.desired === "end") return;
        change.append({ case: "system", value: { subtype, message } });
        requestEnd(change, "completed", message);
      });
      deps.poke(session.sessionId);
    },
    /** Resolves when the usage is in the log, once. Bookings of one session follow one another. */
    recordUsage(session: PhantomSession, metered: Metered, request: ModelRequest): Promise<void> {
      const before = bookings.get(session.sessionId) ?? Promise.resolve();
      const booking = before.then(() => book(deps, session, metered, request));
      const settled = booking
        .catch(() => undefined)
        .finally(() => {
          if (bookings.get(session.sessionId) === settled) bookings.delete(session.sessionId);
        });
      bookings.set(session.sessionId, settled);
      return booking;
    },
  };
}

async function book({ journal, prices }: LedgerDeps, { sessionId }: PhantomSession, { model, usage }: Metered, request: ModelRequest): Promise<void> {
  const spent = { ...usage, cost_micros: costMicros(prices, model, usage) };
  const deadline = performance.now() + patienceMs;
  // What the tally is once this is booked. Nobody else books for the session, so a tally that is there already tells of a
  // commit whose answer was lost.
  let booked: UsageTally | undefined;
  for (;;) {
    try {
      return await journal.change(sessionId, (row) => row ?? gone(sessionId), ({ session, set, append }) => {
        if (session.state === "ended" || (booked && isSame(session.usage, booked))) return;
        booked = sum(session.usage, spent);
        const turns = request.subAgent || !request.counted ? 0 : 1;
        set({ usage: booked, turn_usage: sum(session.turn_usage, spent), model_requests: session.model_requests + turns });
        append({ case: "usageDelta", value: { model, usage: usageMessage(usage), costUsd: spent.cost_micros / 1e6 } });
      });
    } catch (error) {
      const failure = passingFailure(error);
      if (!failure || performance.now() > deadline) throw error;
      await sleep(failure.retryAfterMs);
    }
  }
}

function isSame(a: UsageTally, b: UsageTally): boolean {
  return (Object.keys(a) as (keyof UsageTally)[]).every((count) => a[count] === b[count]);
}

function sum(a: UsageTally, b: UsageTally): UsageTally {
  return {
    input_tokens: a.input_tokens + b.input_tokens,
    output_tokens: a.output_tokens + b.output_tokens,
    cache_creation_input_tokens: a.cache_creation_input_tokens + b.cache_creation_input_tokens,
    cache_read_input_tokens: a.cache_read_input_tokens + b.cache_read_input_tokens,
    cost_micros: a.cost_micros + b.cost_micros,
  };
}

function gone(sessionId: string): never {
  throw new Error(`session ${sessionId} is gone; its last model request cannot be booked`);
}
