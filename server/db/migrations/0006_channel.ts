import { type Kysely, sql } from "kysely";

/** Prompts taken back, answers that may come again, and tickets that open a WebSocket. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table queued_prompt add column canceled_seq integer`.execute(db);
  await sql`alter table pause add column answer bytea`.execute(db);
  await sql`create table socket_ticket (
    hash bytea primary key,
    session_id text not null references session (id) on delete cascade,
    user_id uuid not null references app_user (id) on delete cascade,
    email text,
    token_expires_at timestamptz not null,
    expires_at timestamptz not null
  )`.execute(db);
  await sql`create index socket_ticket_age on socket_ticket (expires_at)`.execute(db);
}
