import { setTimeout as sleep } from "node:timers/promises";
import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import { passingFailure } from "../db/failures.ts";
import { requestEnd } from "../journal/ends.ts";
import type { Journal } from "../journal/journal.ts";
import type { UsageTally } from "../journal/tables.ts";
import { usageMessage } from "../journal/turns.ts";
import type { Cap, ModelRequest } from "./caps.ts";
import type { LiveSessions } from "./live-sessions.ts";
import type { PhantomSession } from "./phantom.ts";
import { costMicros, type PriceTable } from "./prices.ts";
import { findPhantomSession } from "./store.ts";
import type { Metered } from "./usage-meter.ts";

export type LedgerDeps = {
  db: Kysely<Database>;
  journal: Journal;
  prices: PriceTable;
  hashToken(token: string): Uint8Array;
  live: LiveSessions;
  poke(sessionId: string): void;
};

/** A booking is tried again for this long while the database is away. */
const patienceMs = 120_000;

/** A turn's end and a session's wait this long for the bill of their last request. */
const settleMs = 3_000;

/** Who may spend, and what was spent: from the provider's own answers, in the session's log. */
export function createLedger(deps: LedgerDeps) {
  const bookings = createBookings();
  return {
    async findPhantom(token: string): Promise<PhantomSession | undefined> {
      const hash = deps.hashToken(token);
      return deps.live.find(hash) ?? findPhantomSession(deps.db, hash);
    },
    /** Ends a session at its cap, with a word that people see. */
    async endAtCap(session: PhantomSession, { subtype, message }: Cap): Promise<void> {
      await deps.journal.change(
        session.sessionId,
        (row) => row ?? gone(session.sessionId),
        (change) => {
          if (change.session.desired === "end") return;
          change.append({ case: "system", value: { subtype, message } });
          requestEnd(change, "completed", message);
        },
      );
      deps.poke(session.sessionId);
    },
    /** A model request begins; whoever calls `settled` waits for `over`. */
    track: (sessionId: string, over: Promise<void>): void => bookings.track(sessionId, over),
    /** Resolves when the usage is in the log, once. Bookings of one session follow one another. */
    recordUsage: (session: PhantomSession, metered: Metered, request: ModelRequest): Promise<void> =>
      bookings.inTurn(session.sessionId, () => book(deps, session, metered, request)),
    /** Resolves when every request of the session so far is booked or given up, at the latest after three seconds. */
    settled: (sessionId: string): Promise<void> => within(settleMs, bookings.of(sessionId)),
    /** Waits for what is still to be booked. Before the vault and the database close. */
    close: (): Promise<void> => within(settleMs, bookings.all()),
  };
}

function createBookings() {
  const open = new Map<string, Set<Promise<unknown>>>();
  const last = new Map<string, Promise<unknown>>();
  const track = (sessionId: string, work: Promise<unknown>): void => {
    const mine = open.get(sessionId) ?? new Set();
    open.set(sessionId, mine.add(work));
    const done = () => {
      mine.delete(work);
      if (mine.size === 0 && open.get(sessionId) === mine) open.delete(sessionId);
    };
    work.then(done, done);
  };
  return {
    track,
    inTurn(sessionId: string, book: () => Promise<void>): Promise<void> {
      const booking = (last.get(sessionId) ?? Promise.resolve()).then(book);
      const settled = booking.then(
        () => undefined,
        () => undefined,
      );
      last.set(sessionId, settled);
      void settled.then(() => last.get(sessionId) === settled && last.delete(sessionId));
      track(sessionId, booking);
      return booking;
    },
    async of(sessionId: string): Promise<void> {
      await Promise.allSettled(open.get(sessionId) ?? []);
    },
    async all(): Promise<void> {
      await Promise.allSettled([...open.values()].flatMap((set) => [...set]));
    },
  };
}

async function within(milliseconds: number, work: Promise<void>): Promise<void> {
  const timer = new AbortController();
  await Promise.race([work, sleep(milliseconds, undefined, { signal: timer.signal }).catch(() => undefined)]);
  timer.abort();
}

async function book(
  { journal, prices, live }: LedgerDeps,
  { sessionId }: PhantomSession,
  { model, usage }: Metered,
  request: ModelRequest,
): Promise<void> {
  const spent = { ...usage, cost_micros: costMicros(prices, model, usage) };
  const deadline = performance.now() + patienceMs;
  // What the tally is once this is booked. Nobody else books for the session, so a tally that is there already tells of a
  // commit whose answer was lost.
  let booked: UsageTally | undefined;
  for (;;) {
    try {
      return await journal.change(
        sessionId,
        (row) => row ?? gone(sessionId),
        ({ session, set, append }) => {
          if (booked && isSame(session.usage, booked)) return;
          booked = sum(session.usage, spent);
          const turns = request.subAgent || !request.counted ? 0 : 1;
          set({ usage: booked, turn_usage: sum(session.turn_usage, spent), model_requests: session.model_requests + turns });
          // The log of an ended session is closed; what its last request cost still counts.
          if (session.state === "ended") return;
          append({ case: "usageDelta", value: { model, usage: usageMessage(usage), costUsd: spent.cost_micros / 1e6 } });
        },
      );
    } catch (error) {
      // It may be in the table all the same.
      live.rung(sessionId);
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
