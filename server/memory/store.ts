import { type ColumnType, type Generated, type Kysely, type Selectable, sql, type Transaction } from "kysely";
import type { Database } from "../db/database.ts";

type Envelope = ColumnType<Buffer, Uint8Array, Uint8Array>;

export type ProfileMemoryTable = {
  profile_id: string;
  path: string;
  /** Counts the times the two envelopes were sealed, from 1. */
  generation: number;
  /** Bytes of the content. */
  size: number;
  /** The sealed SHA-256 of the content: a bare one would let short contents be guessed. */
  digest: Envelope;
  content: Envelope;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
};

/** A row with its content. */
export type ContentRow = Selectable<ProfileMemoryTable>;
export type MemoryRow = Omit<ContentRow, "content">;

const columns = ["profile_id", "path", "generation", "size", "digest", "created_at", "updated_at"] as const;

/** Whether the profile is there and this owner's. */
export async function ownsProfile(db: Kysely<Database>, ownerId: string, profileId: string): Promise<boolean> {
  return (await selectProfile(db, ownerId, profileId).executeTakeFirst()) !== undefined;
}

/** The same, and serialises the changes of its bank until the end of the transaction. */
export async function lockBank(tx: Transaction<Database>, ownerId: string, profileId: string): Promise<boolean> {
  return (await selectProfile(tx, ownerId, profileId).forNoKeyUpdate().executeTakeFirst()) !== undefined;
}

function selectProfile(db: Kysely<Database>, ownerId: string, profileId: string) {
  return db.selectFrom("profile").select("id").where("id", "=", profileId).where("owner_id", "=", ownerId);
}

/** By path. */
export function listMemories(db: Kysely<Database>, profileId: string): Promise<MemoryRow[]> {
  return db.selectFrom("profile_memory").select(columns).where("profile_id", "=", profileId).orderBy("path").execute();
}

/** The whole bank, by path. */
export function listContents(db: Kysely<Database>, ownerId: string, profileId: string): Promise<ContentRow[]> {
  return db
    .selectFrom("profile_memory")
    .innerJoin("profile", "profile.id", "profile_memory.profile_id")
    .selectAll("profile_memory")
    .where("profile.id", "=", profileId)
    .where("profile.owner_id", "=", ownerId)
    .orderBy("profile_memory.path")
    .execute();
}

export function findContent(db: Kysely<Database>, profileId: string, path: string): Promise<ContentRow | undefined> {
  return db.selectFrom("profile_memory").selectAll().where("profile_id", "=", profileId).where("path", "=", path).executeTakeFirst();
}

type Written = Pick<ContentRow, "profile_id" | "path" | "generation" | "size"> & { digest: Uint8Array; content: Uint8Array };

/** Writes a file under the bank's lock; when it was made stays. */
export function writeMemory(tx: Transaction<Database>, { profile_id, path, ...values }: Written): Promise<MemoryRow> {
  return tx
    .insertInto("profile_memory")
    .values({ profile_id, path, ...values })
    .onConflict((conflict) => conflict.columns(["profile_id", "path"]).doUpdateSet({ ...values, updated_at: sql`clock_timestamp()` }))
    .returning(columns)
    .executeTakeFirstOrThrow();
}

/** False when there was none. */
export async function deleteMemory(tx: Transaction<Database>, profileId: string, path: string): Promise<boolean> {
  const result = await tx.deleteFrom("profile_memory").where("profile_id", "=", profileId).where("path", "=", path).executeTakeFirst();
  return result.numDeletedRows === 1n;
}
