import { type ColumnType, type Generated, type Kysely, sql } from "kysely";
import type { Database } from "../db/database.ts";

/** What a stored secret is for the provider. */
export type CredentialKind = "api_key" | "oauth_token";

/** At most one provider secret of each user; `envelope` is sealed for (user, generation). */
export type CredentialTable = {
  user_id: string;
  kind: CredentialKind;
  /** Counts replacements from 1, so that an envelope of before does not open in the row of now. */
  generation: number;
  envelope: ColumnType<Buffer, Uint8Array, Uint8Array>;
  created_at: Generated<Date>;
};

export type CredentialStatus = { kind: CredentialKind; createdAt: Date };
export type SealedCredential = { kind: CredentialKind; generation: number; envelope: Uint8Array };

/** Also for use in a transaction. */
export async function hasCredential(db: Kysely<Database>, userId: string): Promise<boolean> {
  const row = await db.selectFrom("credential").select("user_id").where("user_id", "=", userId).executeTakeFirst();
  return row !== undefined;
}

export async function findStatus(db: Kysely<Database>, userId: string): Promise<CredentialStatus | undefined> {
  return db.selectFrom("credential").select(["kind", "created_at as createdAt"]).where("user_id", "=", userId).executeTakeFirst();
}

export async function findSealed(db: Kysely<Database>, userId: string): Promise<SealedCredential | undefined> {
  return db.selectFrom("credential").select(["kind", "generation", "envelope"]).where("user_id", "=", userId).executeTakeFirst();
}

/** 0 when nothing is stored. */
export async function findGeneration(db: Kysely<Database>, userId: string): Promise<number> {
  const row = await db.selectFrom("credential").select("generation").where("user_id", "=", userId).executeTakeFirst();
  return row?.generation ?? 0;
}

/** Stores generation n in place of generation n - 1 or of nothing; false when another generation is there. */
export async function putCredential(
  db: Kysely<Database>,
  userId: string,
  { kind, generation, envelope }: SealedCredential,
): Promise<boolean> {
  const stored = await db
    .insertInto("credential")
    .values({ user_id: userId, kind, generation, envelope })
    .onConflict((conflict) =>
      conflict
        .column("user_id")
        .doUpdateSet({ kind, generation, envelope, created_at: sql`now()` })
        .where("credential.generation", "=", generation - 1),
    )
    .returning("generation")
    .executeTakeFirst();
  return stored !== undefined;
}

export async function deleteCredential(db: Kysely<Database>, userId: string): Promise<void> {
  await db.deleteFrom("credential").where("user_id", "=", userId).execute();
}
