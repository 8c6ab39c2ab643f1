import { type Kysely, sql } from "kysely";

/** The files of a profile's memory bank. They go with the profile. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`create table profile_memory (
    profile_id text not null references profile (id) on delete cascade,
    path text collate "C" not null check (path <> ''),
    generation integer not null check (generation > 0),
    size integer not null check (size >= 0),
    digest bytea not null,
    content bytea not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (profile_id, path)
  )`.execute(db);
}
