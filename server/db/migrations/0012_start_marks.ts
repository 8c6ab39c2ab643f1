import { type Kysely, sql } from "kysely";

/** When the last start of a session came to the end of each of its phases. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table session add column start_marks jsonb`.execute(db);
}
