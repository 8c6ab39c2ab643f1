import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import type { Journal } from "../journal/journal.ts";
import type { UsageTally } from "../journal/tables.ts";
import { usageMessage } from "../journal/turns.ts";
import type { PhantomSession } from "./model-gateway.ts";
import { costMicros, type PriceTable } from "./prices.ts";
import { findPhantomSession } from "./store.ts";
import type { Metered } from "./usage-meter.ts";

export type LedgerDeps = { db: Kysely<Database>; journal: Journal; prices: PriceTable; hashToken(token: string): Uint8Array };

/** Who may spend, and what was spent: from the provider's own answers, in the session's log. */
export function createLedger(deps: LedgerDeps) {
  return {
    findPhantom: (token: string): Promise<PhantomSession | undefined> => findPhantomSession(deps.db, deps.hashToken(token)),
    async recordUsage(session: PhantomSession, { model, usage }: Metered): Promise<void> {
      const spent = { ...usage, cost_micros: costMicros(deps.prices, model, usage) };
      await deps.journal.change(
        session.sessionId,
        (row) => row ?? gone(session.sessionId),
        (change) => {
          if (change.session.state === "ended") return;
          change.set({ usage: sum(change.session.usage, spent), turn_usage: sum(change.session.turn_usage, spent) });
          change.append({ case: "usageDelta", value: { model, usage: usageMessage(usage), costUsd: spent.cost_micros / 1e6 } });
        },
      );
    },
  };
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
