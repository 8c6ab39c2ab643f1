import { type Kysely, sql } from "kysely";

/** Sessions that are put away, and what of them is kept: snapshots, of which the session's row names the current one. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table session
    drop constraint session_state_check,
    drop constraint session_desired_check,
    add constraint session_state_check
      check (state in ('requested', 'starting', 'running', 'hibernating', 'dormant', 'ending', 'ended')),
    add constraint session_desired_check check (desired in ('run', 'hibernate', 'end')),
    add column active_at timestamptz not null default now(),
    add column snapshot_generation integer,
    add column snapshot_at timestamptz,
    add column restoring boolean not null default false,
    add column life_left_ms bigint,
    add column forked_from text,
    add column forked_at_seq integer,
    add constraint session_dormant_check check (state <> 'dormant' or snapshot_generation is not null)`.execute(db);
  await sql`create table snapshot (
    session_id text not null references session (id),
    generation integer not null check (generation > 0),
    epoch integer not null,
    archive text not null unique,
    seq integer not null,
    conversation text not null,
    bytes bigint not null,
    digest bytea not null,
    created_at timestamptz not null default now(),
    primary key (session_id, generation)
  )`.execute(db);
}
