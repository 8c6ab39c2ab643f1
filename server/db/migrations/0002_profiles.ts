import { type Kysely, sql } from "kysely";

/** Profiles, and whose default is which. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`create table profile (
    id text primary key,
    owner_id uuid not null references app_user (id),
    name text not null check (name <> ''),
    description text not null,
    allowed_tools text[] not null,
    denied_tools text[] not null,
    permission_mode text not null check (permission_mode in ('acceptEdits', 'plan', 'bypassPermissions')),
    model text not null,
    max_turns integer check (max_turns > 0),
    max_budget_micros bigint check (max_budget_micros > 0),
    one_shot boolean not null,
    ttl_seconds integer check (ttl_seconds between 1 and 86400),
    allowed_hosts text[] not null,
    generation integer not null check (generation > 0),
    environment bytea,
    mcp_servers bytea,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (owner_id, id),
    unique (owner_id, name)
  )`.execute(db);
  // One row for each person, referring to a profile of that person: there cannot be two defaults, and the default cannot be deleted.
  await sql`create table default_profile (
    owner_id uuid primary key references app_user (id),
    profile_id text not null,
    foreign key (owner_id, profile_id) references profile (owner_id, id)
  )`.execute(db);
}
