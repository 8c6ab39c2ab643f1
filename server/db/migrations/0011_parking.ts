import { type Kysely, sql } from "kysely";

/** Steps of a session that fail in a row, since when, and a session that is left alone because they failed too often. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table session
    add column failures integer not null default 0,
    add column failing_since timestamptz,
    add column retry_at timestamptz,
    add column parked_at timestamptz`.execute(db);
}
