import { type Kysely, sql } from "kysely";

/** Answers that came while no agent was there to be told. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table pause add column carried boolean not null default false`.execute(db);
}
