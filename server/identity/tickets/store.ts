import { type Kysely, type NotNull, sql } from "kysely";
import type { Database } from "../../db/database.ts";

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
  const expires = sql<Date>`clock_timestamp() + ${lifetimeMs} * interval '1 millisecond'`;
  const row = await db
    .insertInto("socket_ticket")
    .values({ ...ticket, expires_at: expires })
    .returning("expires_at")
    .executeTakeFirstOrThrow();
  return row.expires_at;
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
  await db.deleteFrom("socket_ticket").where("expires_at", "<=", sql<Date>`clock_timestamp()`).execute();
}
