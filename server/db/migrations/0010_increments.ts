import { type Kysely, sql } from "kysely";

/** Snapshots that hold only what has changed since another of the same session, which stays for as long as they do. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table snapshot
    add column base_generation integer,
    add constraint snapshot_base_check check (base_generation < generation),
    add constraint snapshot_base_fkey foreign key (session_id, base_generation) references snapshot (session_id, generation)`.execute(db);
}
