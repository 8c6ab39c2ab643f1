/**
 * Whoever locks rows of several kinds does so in this order, or two of them could wait for each other: the account, its session, what
 * belongs to either. Rows that refer to an account lock it when they are written, so it is held before where a session is locked too.
 * Several of a kind are locked by their ids, or those are left out that somebody else has.
 */
import { type Kysely, sql } from "kysely";
import type { Database } from "./database.ts";

/** Keeps an account as it is until the transaction is over. Those who do this do not wait for each other. */
export function accountHeld(userId: string) {
  return sql`select from app_user where id = ${userId} for key share`;
}

export async function holdAccount(tx: Kysely<Database>, userId: string): Promise<void> {
  await accountHeld(userId).execute(tx);
}
