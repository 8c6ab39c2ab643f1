import { type Kysely, sql } from "kysely";

/** What a session is pinned to beside its tools: limits, hosts, and the sealed part with environment and tool servers. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table session
    add column profile_id text not null default '',
    add column settings bytea,
    add column allowed_hosts text[] not null default '{}',
    add column max_turns integer,
    add column max_budget_micros bigint,
    add column one_shot boolean not null default false,
    add column ttl_seconds integer,
    add column ends_at timestamptz,
    add column model_requests integer not null default 0,
    add column host text not null default ''`.execute(db);
}
