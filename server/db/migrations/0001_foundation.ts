import { type Kysely, sql } from "kysely";

/** People, their keys and secrets; sessions, their logs, queues, commands and pauses; request ids. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await createPeople(db);
  await createSessions(db);
  await createSessionParts(db);
}

async function createPeople(db: Kysely<unknown>): Promise<void> {
  await sql`create table app_user (
    id uuid primary key,
    issuer text not null,
    subject text not null,
    email text,
    registered_at timestamptz not null default now(),
    unique (issuer, subject)
  )`.execute(db);
  await sql`create table user_key (
    user_id uuid not null references app_user (id),
    version integer not null check (version > 0),
    kid text not null,
    wrapped bytea not null,
    state text not null check (state in ('active', 'decrypt_only', 'destroyed')),
    created_at timestamptz not null default now(),
    destroyed_at timestamptz,
    primary key (user_id, version)
  )`.execute(db);
  await sql`create unique index user_key_one_active on user_key (user_id) where state = 'active'`.execute(db);
  await sql`create table kek_canary (
    kid text primary key,
    envelope bytea not null,
    state text not null check (state in ('active', 'retired')),
    created_at timestamptz not null default now()
  )`.execute(db);
  await sql`create table credential (
    user_id uuid primary key references app_user (id),
    kind text not null check (kind in ('api_key', 'oauth_token')),
    generation integer not null check (generation > 0),
    envelope bytea not null,
    created_at timestamptz not null default now()
  )`.execute(db);
  await sql`create table request_id (
    owner_id uuid not null references app_user (id),
    method text not null,
    request_id text not null,
    parameters bytea not null,
    response bytea not null,
    created_at timestamptz not null default now(),
    primary key (owner_id, method, request_id)
  )`.execute(db);
  await sql`create index request_id_age on request_id (created_at)`.execute(db);
}

async function createSessions(db: Kysely<unknown>): Promise<void> {
  await sql`create table session (
    id text primary key,
    owner_id uuid not null references app_user (id),
    name text not null,
    state text not null check (state in ('requested', 'starting', 'running', 'ending', 'ended')),
    desired text not null check (desired in ('run', 'end')),
    state_since timestamptz not null default now(),
    epoch integer not null default 0,
    lease_until timestamptz,
    attach_hash bytea unique,
    lease_hash bytea unique,
    phantom_hash bytea unique,
    box text unique,
    handle jsonb,
    last_seq integer not null default 0,
    chain bytea not null,
    last_runner_seq integer not null default 0,
    last_command_id integer not null default 0,
    acked_command_id integer not null default 0,
    turn integer not null default 0,
    turn_acted boolean not null default false,
    turn_started_at timestamptz,
    sdk_session_id text,
    restarts integer not null default 0,
    restarts_since timestamptz,
    model text not null,
    permission_mode text not null,
    allowed_tools text[] not null,
    denied_tools text[] not null,
    session_patterns text[] not null default '{}',
    initial_prompt bytea,
    usage jsonb not null,
    turn_usage jsonb not null,
    num_turns integer not null default 0,
    pending_count integer not null default 0,
    queued_prompts integer not null default 0,
    end_reason text,
    exit_code integer,
    error_message bytea,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    terminated_at timestamptz,
    check ((state = 'ended') = (terminated_at is not null)),
    check ((end_reason is null) or desired = 'end')
  )`.execute(db);
  await sql`create index session_by_owner on session (owner_id, id desc)`.execute(db);
  await sql`create index session_alive on session (state) where state <> 'ended'`.execute(db);
}

async function createSessionParts(db: Kysely<unknown>): Promise<void> {
  // The primary key and the runner's own numbers are the backstop of the append statement: a number is given once.
  await sql`create table event (
    session_id text not null references session (id),
    seq integer not null check (seq > 0),
    epoch integer not null,
    runner_seq integer,
    turn integer not null,
    created_at timestamptz not null,
    payload bytea not null,
    chain bytea not null,
    primary key (session_id, seq),
    unique (session_id, epoch, runner_seq)
  )`.execute(db);
  await sql`create table queued_prompt (
    session_id text not null references session (id),
    seq integer not null,
    primary key (session_id, seq)
  )`.execute(db);
  await sql`create table command (
    session_id text not null references session (id),
    id integer not null check (id > 0),
    payload bytea not null,
    primary key (session_id, id)
  )`.execute(db);
  await sql`create table pause (
    session_id text not null references session (id),
    id text not null,
    kind text not null check (kind in ('approval', 'question')),
    epoch integer not null,
    seq integer not null,
    request bytea not null,
    outcome text,
    decision bytea,
    answered_by text,
    created_at timestamptz not null default now(),
    primary key (session_id, id)
  )`.execute(db);
  await sql`create index pause_open on pause (session_id) where outcome is null`.execute(db);
}
