import { type Kysely, type NotNull, sql } from "kysely";
import type { Database } from "../../db/database.ts";
import { accountHeld } from "../../db/lock-order.ts";

export type SocketTicketTable = {
  /** The keyed hash of the ticket. */
  hash: Uint8Array;
  session_id: string;
  user_id: string;
  /** What the token that it was bought with says of its person. */
  email: string | null;
  token_expires_at: Date;
  expires_at: Date;
};

export type NewTicket = Omit<SocketTicketTable, "expires_at"> & { lifetimeMs: number };

/** Keeps a ticket and returns when it expires, by the database's clock. */
export async function insertTicket(db: Kysely<Database>, { lifetimeMs, ...ticket }: NewTicket): Promise<Date> {
  const { hash, session_id, user_id, email, token_expires_at } = ticket;
  const { rows } = await sql<Pick<SocketTicketTable, "expires_at">>`with account as (${accountHeld(user_id)})
    insert into socket_ticket (hash, session_id, user_id, email, token_expires_at, expires_at)
    select ${hash}::bytea, ${session_id}, ${user_id}::uuid, ${email}, ${token_expires_at}::timestamptz,
      clock_timestamp() + ${lifetimeMs} * interval '1 millisecond' from account
    returning expires_at`.execute(db);
  if (!rows[0]) throw new Error("the account is gone");
  return rows[0].expires_at;
}

/**
 * Takes a ticket out for good, whatever becomes of it. One statement, so that of two servers that are shown the same ticket
 * one gets it. Undefined for what is no ticket, is used, or has expired.
 */
export async function takeTicket(db: Kysely<Database>, hash: Uint8Array) {
  return db
    .deleteFrom("socket_ticket")
    .using("app_user")
    .where("hash", "=", hash)
    .whereRef("app_user.id", "=", "socket_ticket.user_id")
    .where("app_user.deregistered_at", "is", null)
    .where("expires_at", ">", sql<Date>`clock_timestamp()`)
    .returning(["session_id", "user_id", "socket_ticket.email", "token_expires_at", "app_user.issuer", "app_user.subject"])
    .$narrowType<{ issuer: NotNull; subject: NotNull }>()
    .executeTakeFirst();
}

/** Forgets what nobody can use any more. */
export async function forgetExpiredTickets(db: Kysely<Database>): Promise<void> {
  const expired = db.selectFrom("socket_ticket").select("hash").where("expires_at", "<=", sql<Date>`clock_timestamp()`);
  await db.deleteFrom("socket_ticket").where("hash", "in", expired.forUpdate().skipLocked()).execute();
}
