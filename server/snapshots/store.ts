import { type Insertable, type Kysely, type Selectable, sql, type Transaction } from "kysely";
import type { BlobDigest } from "../blobs/store.ts";
import type { Database } from "../db/database.ts";
import type { SnapshotTable } from "../journal/tables.ts";
import { chainOf, oldestNeeded } from "./rules.ts";

export type SnapshotRow = Selectable<SnapshotTable>;

/** What its archive must be. */
export function digestOf({ bytes, digest }: SnapshotRow): BlobDigest {
  return { bytes: Number(bytes), sha256: digest.toString("hex") };
}

export async function insertSnapshot(tx: Transaction<Database>, snapshot: Insertable<SnapshotTable>): Promise<void> {
  await tx.insertInto("snapshot").values(snapshot).execute();
}

export async function findSnapshot(db: Kysely<Database>, sessionId: string, generation: number): Promise<SnapshotRow | undefined> {
  return db.selectFrom("snapshot").selectAll().where("session_id", "=", sessionId).where("generation", "=", generation).executeTakeFirst();
}

/** Forgets the snapshots that none from this one on needs and answers the names of their archives. */
export async function deleteSnapshotsBefore(tx: Transaction<Database>, sessionId: string, generation: number): Promise<string[]> {
  const rows = await tx
    .deleteFrom("snapshot")
    .where("session_id", "=", sessionId)
    .where("generation", "<", oldestNeeded(await listSnapshots(tx, sessionId), generation))
    .returning("archive")
    .execute();
  return rows.map(({ archive }) => archive);
}

/** Those that are kept of a session, oldest first. */
export async function listSnapshots(db: Kysely<Database>, sessionId: string): Promise<SnapshotRow[]> {
  return db.selectFrom("snapshot").selectAll().where("session_id", "=", sessionId).orderBy("generation").execute();
}

/** What has to be unpacked for a snapshot of a session, in order; empty when it is not kept, or there is none yet. */
export async function listChain(db: Kysely<Database>, sessionId: string, generation: number | null): Promise<SnapshotRow[]> {
  return generation === null ? [] : chainOf(await listSnapshots(db, sessionId), generation);
}

/** Whether a snapshot has this archive. */
export async function isNamed(db: Kysely<Database>, archive: string): Promise<boolean> {
  return (await db.selectFrom("snapshot").select("generation").where("archive", "=", archive).executeTakeFirst()) !== undefined;
}

/** Sessions that were put away, or parked, longer ago than `ageMs`. */
export async function listUnused(db: Kysely<Database>, ageMs: number): Promise<{ id: string }[]> {
  return db
    .selectFrom("session")
    .select("id")
    .where("state", "<>", "ended")
    .where("desired", "in", ["run", "hibernate"])
    .where((e) =>
      e.or([
        e.and([e("state", "=", "dormant"), e("desired", "=", "hibernate"), e("state_since", "<", ago(ageMs))]),
        e("parked_at", "<", ago(ageMs)),
      ]),
    )
    .orderBy("id")
    .execute();
}

/** Forgets the snapshots of sessions that ended longer ago than `ageMs` and answers the names of their archives. */
export async function forgetExpired(db: Kysely<Database>, ageMs: number): Promise<string[]> {
  return db.transaction().execute(async (tx) => {
    const expired = tx
      .selectFrom("session")
      .select("id")
      .where("state", "=", "ended")
      .where("snapshot_generation", "is not", null)
      .where("terminated_at", "<", ago(ageMs));
    const ids = (await expired.forUpdate().skipLocked().execute()).map(({ id }) => id);
    if (ids.length === 0) return [];
    const rows = await tx.deleteFrom("snapshot").where("session_id", "in", ids).returning("archive").execute();
    await tx.updateTable("session").set({ snapshot_generation: null, snapshot_at: null }).where("id", "in", ids).execute();
    return rows.map(({ archive }) => archive);
  });
}

function ago(ms: number) {
  return sql<Date>`clock_timestamp() - make_interval(secs => ${ms / 1000})`;
}

/** Whether nothing names an archive. One of a session that is not here may be of another installation, unless the store is ours alone. */
export async function isStranded(db: Kysely<Database>, archive: string, isOurs: boolean): Promise<boolean> {
  const sessionId = archive.split("/")[0] ?? "";
  const known = await db.selectFrom("session").select("id").where("id", "=", sessionId).executeTakeFirst();
  return (isOurs || known !== undefined) && !(await isNamed(db, archive));
}
