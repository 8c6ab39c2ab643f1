import type { Insertable, Kysely, Selectable, Transaction } from "kysely";
import type { Database } from "../db/database.ts";
import type { SnapshotTable } from "../journal/tables.ts";

export type SnapshotRow = Selectable<SnapshotTable>;

export async function insertSnapshot(tx: Transaction<Database>, snapshot: Insertable<SnapshotTable>): Promise<void> {
  await tx.insertInto("snapshot").values(snapshot).execute();
}

export async function findSnapshot(db: Kysely<Database>, sessionId: string, generation: number): Promise<SnapshotRow | undefined> {
  return db.selectFrom("snapshot").selectAll().where("session_id", "=", sessionId).where("generation", "=", generation).executeTakeFirst();
}

/** Forgets the snapshots before this one and answers the names of their archives. */
export async function deleteSnapshotsBefore(tx: Transaction<Database>, sessionId: string, generation: number): Promise<string[]> {
  const rows = await tx
    .deleteFrom("snapshot")
    .where("session_id", "=", sessionId)
    .where("generation", "<", generation)
    .returning("archive")
    .execute();
  return rows.map(({ archive }) => archive);
}

/** Those that are kept of a session, oldest first. */
export async function listSnapshots(db: Kysely<Database>, sessionId: string): Promise<SnapshotRow[]> {
  return db.selectFrom("snapshot").selectAll().where("session_id", "=", sessionId).orderBy("generation").execute();
}

/** Whether a snapshot has this archive. */
export async function isNamed(db: Kysely<Database>, archive: string): Promise<boolean> {
  return (await db.selectFrom("snapshot").select("generation").where("archive", "=", archive).executeTakeFirst()) !== undefined;
}
