import { type Kysely, type RawBuilder, sql } from "kysely";
import type { Database } from "../db/database.ts";

export type RateLimitTable = {
  /** What is limited. */
  kind: string;
  /** Who or what may do it so often. */
  subject: string;
  /** When the newest calls were let through, oldest first; no more of them than were allowed at the last one. */
  taken: Date[];
};

/** At most `limit` calls of a subject in any span of `windowMs`. */
export type Allowance = { kind: string; subject: string; limit: number; windowMs: number };

/**
 * Takes one call of an allowance. Returns 0 when it was taken, else the milliseconds until one is free; nothing is taken then.
 *
 * Exact with any number of servers: the row's lock puts calls in an order, and only Postgres reads a clock, after it has the
 * lock. In a transaction the call is taken for certain when that commits, and given back when it does not; others of the
 * same subject wait until then.
 */
export async function takeCall(db: Kysely<Database>, allowance: Allowance): Promise<number> {
  for (;;) {
    const waitMs = await tryTake(db, allowance);
    if (waitMs !== undefined) return waitMs;
  }
}

/**
 * Undefined when the last free call went to somebody else while this one waited for the row: the next look sees that.
 * A log that is full already is only read, so that a flood of refused calls writes nothing.
 */
async function tryTake(db: Kysely<Database>, allowance: Allowance): Promise<number | undefined> {
  const freeAt = freeAtOf(allowance);
  const { rows } = await sql<{ wait_ms: number }>`
    with refused as (
      select greatest(1, extract(epoch from ${freeAt} - clock_timestamp()) * 1000)::float8 as wait_ms from ${fullLog(allowance)}
    ), let_through as (
      ${taking(allowance, sql`(select where not exists (select from refused)) as free`)}
      where (${freeAt} <= clock_timestamp()) is not false
      returning 0::float8 as wait_ms
    )
    select wait_ms from refused union all select wait_ms from let_through`.execute(db);
  return rows[0]?.wait_ms;
}

/**
 * The same in two queries of a larger statement: a look that finds nothing when no call is free, and the taking of one that
 * it found. `after` is a table of one row, or none when nothing is to be done. Exact only where whoever takes a call of this
 * subject holds one and the same lock from before the look until the commit.
 */
export function takeCallWithin(allowance: Allowance) {
  return {
    look: (after: RawBuilder<unknown>) => sql`select from ${after} where not exists (select from ${fullLog(allowance)})`,
    take: (after: RawBuilder<unknown>) => sql`${taking(allowance, after)} returning 1`,
  };
}

const count = sql`cardinality(log.taken)`;

/** When there is room, by the limit-th newest call; null, so long as there are fewer. */
function freeAtOf({ limit, windowMs }: Allowance) {
  return sql`log.taken[${count} - ${limit} + 1] + ${windowMs} * interval '1 millisecond'`;
}

function fullLog(allowance: Allowance) {
  const { kind, subject } = allowance;
  return sql`rate_limit as log where kind = ${kind} and subject = ${subject} and ${freeAtOf(allowance)} > clock_timestamp()`;
}

function taking(allowance: Allowance, free: RawBuilder<unknown>) {
  const { kind, subject, limit } = allowance;
  return sql`insert into rate_limit as log (kind, subject, taken)
    select ${kind}, ${subject}, array[clock_timestamp()] from ${free}
    on conflict (kind, subject) do update
    set taken = log.taken[greatest(1, ${count} - ${limit} + 2):]
      || greatest(clock_timestamp(), log.taken[${count}], ${freeAtOf(allowance)})`;
}

/** Forgets the subjects without a call in the last window, and those in the future of a clock that was put back since. */
export async function forgetIdle(db: Kysely<Database>, windowMs: number): Promise<void> {
  const window = sql`${windowMs} * interval '1 millisecond'`;
  // A row that somebody is changing is not idle, and nobody shall wait here for it.
  await sql`
    delete from rate_limit where (kind, subject) in (
      select kind, subject from rate_limit
      where taken[cardinality(taken)] not between clock_timestamp() - ${window} and clock_timestamp() + ${window}
      for update skip locked
    )`.execute(db);
}
