import { type Kysely, sql } from "kysely";

/** Accounts that were closed: nobody's from that moment, so that their person can register anew, and gone once nothing is left of them. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table app_user
    alter column issuer drop not null,
    alter column subject drop not null,
    add column deregistered_at timestamptz,
    add constraint app_user_identity_check check (
      case when deregistered_at is null then issuer is not null and subject is not null
      else issuer is null and subject is null and email is null end
    )`.execute(db);
  await sql`create index app_user_deregistered on app_user (deregistered_at) where deregistered_at is not null`.execute(db);
  await sql`alter table session
    drop constraint session_desired_check,
    drop constraint session_check1,
    add constraint session_desired_check check (desired in ('run', 'hibernate', 'end', 'erase')),
    add constraint session_end_reason_check check (end_reason is null or desired in ('end', 'erase'))`.execute(db);
  await sql`create index session_erased on session (host) where desired = 'erase'`.execute(db);
}
