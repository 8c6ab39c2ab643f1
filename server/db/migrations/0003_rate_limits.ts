import { type Kysely, sql } from "kysely";

/** When whom was last let do what: the log of every limit per minute. */
export async function up(db: Kysely<unknown>): Promise<void> {
  // No reference to a person or session: people are limited before they register, and idle rows are swept anyway.
  await sql`create table rate_limit (
    kind text not null,
    subject text not null,
    taken timestamptz[] not null check (cardinality(taken) > 0),
    primary key (kind, subject)
  )`.execute(db);
}
