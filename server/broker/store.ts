import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import { type PhantomSession, phantomColumns, phantomSessionOf } from "./phantom.ts";

/** The live session of a phantom token. A token of an earlier epoch is in no row any more: it is fenced by its absence. */
export async function findPhantomSession(db: Kysely<Database>, phantomHash: Uint8Array): Promise<PhantomSession | undefined> {
  const row = await db
    .selectFrom("session")
    .select(phantomColumns)
    .where("phantom_hash", "=", Buffer.from(phantomHash))
    .where("state", "=", "running")
    .where("desired", "=", "run")
    .executeTakeFirst();
  return row && phantomSessionOf(row);
}

/** Hosts the agent of a session may reach. */
export async function findAllowedHosts(db: Kysely<Database>, sessionId: string): Promise<readonly string[]> {
  const row = await db.selectFrom("session").select("allowed_hosts").where("id", "=", sessionId).executeTakeFirst();
  return row?.allowed_hosts ?? [];
}

/** The sealed settings of a session, for the addresses and headers of its tool servers. */
export async function findSettings(db: Kysely<Database>, sessionId: string) {
  return db.selectFrom("session").select(["id", "owner_id", "settings"]).where("id", "=", sessionId).executeTakeFirst();
}
