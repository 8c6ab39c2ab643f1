import { type ColumnType, type Generated, type Kysely, sql } from "kysely";
import type { WrappedKey } from "./keyring.ts";

/** `active` seals and opens, `decrypt_only` opens, `destroyed` is a tombstone whose `wrapped` is zeros. */
export type UserKeyState = "active" | "decrypt_only" | "destroyed";

/** `active` must open at every start; `retired` belongs to a root key that may be gone. */
export type CanaryState = "active" | "retired";

type Bytes = ColumnType<Buffer, Uint8Array, Uint8Array>;

export type UserKeyTable = {
  user_id: string;
  version: number;
  kid: string;
  wrapped: Bytes;
  state: UserKeyState;
  created_at: Generated<Date>;
  destroyed_at: Date | null;
};

export type KekCanaryTable = {
  kid: string;
  envelope: Bytes;
  state: CanaryState;
  created_at: Generated<Date>;
};

export type VaultTables = { user_key: UserKeyTable; kek_canary: KekCanaryTable };

/** A database or a transaction of any larger schema that has the vault's tables. */
export type VaultQueries = Pick<Kysely<VaultTables>, "selectFrom" | "insertInto" | "updateTable">;

export type UserKey = WrappedKey & { version: number; state: "active" | "decrypt_only" };

export type Canary = { kid: string; envelope: Uint8Array };

/** What the vault asks of its tables. `Queries` is whatever a transaction of the caller looks like. */
export type VaultStore<Queries> = {
  /** Root keys that wrap at least one data key still in use. */
  kidsInUse(): Promise<string[]>;
  /** Canaries that must open. */
  listCanaries(): Promise<Canary[]>;
  /** Adds one if the canaries are still exactly those of `knownKids`, atomically; false when they are not. */
  addCanary(canary: Canary, knownKids: readonly string[]): Promise<boolean>;
  /** The user's data keys that are not destroyed, oldest version first. */
  listUserKeys(userId: string): Promise<UserKey[]>;
  /** Adds an active data key; rejects when the user has one, or had that version before. */
  insertUserKey(queries: Queries, userId: string, version: number, key: WrappedKey): Promise<void>;
  destroyUserKeys(queries: Queries, userId: string): Promise<void>;
};

/** The store on Postgres. Functions without a transaction parameter run on `db`. */
export function createVaultStore(db: Kysely<VaultTables>): VaultStore<VaultQueries> {
  return {
    kidsInUse: () => kidsInUse(db),
    listCanaries: () => listCanaries(db),
    addCanary: (canary, knownKids) => addCanary(db, canary, knownKids),
    listUserKeys: (userId) => listUserKeys(db, userId),
    insertUserKey,
    destroyUserKeys,
  };
}

export async function kidsInUse(db: VaultQueries): Promise<string[]> {
  const rows = await db.selectFrom("user_key").select("kid").distinct().where("state", "!=", "destroyed").execute();
  return rows.map((row) => row.kid);
}

export async function listCanaries(db: VaultQueries): Promise<Canary[]> {
  return db.selectFrom("kek_canary").select(["kid", "envelope"]).where("state", "=", "active").orderBy("kid").execute();
}

export async function addCanary(db: Kysely<VaultTables>, canary: Canary, knownKids: readonly string[]): Promise<boolean> {
  return db.transaction().execute(async (transaction) => {
    // Two servers with different new keys may start on one empty database at once: the second must see the first's.
    await sql`lock table kek_canary in share row exclusive mode`.execute(transaction);
    const present = await listCanaries(transaction);
    const unchanged = present.length === knownKids.length && present.every(({ kid }) => knownKids.includes(kid));
    if (!unchanged) return false;
    await transaction
      .insertInto("kek_canary")
      .values({ ...canary, state: "active" })
      .execute();
    return true;
  });
}

export async function listUserKeys(db: VaultQueries, userId: string): Promise<UserKey[]> {
  const rows = await db
    .selectFrom("user_key")
    .select(["version", "kid", "wrapped", "state"])
    .where("user_id", "=", userId)
    .orderBy("version")
    .execute();
  return rows.flatMap(({ state, ...key }) => (state === "destroyed" ? [] : [{ ...key, state }]));
}

export async function insertUserKey(db: VaultQueries, userId: string, version: number, { kid, wrapped }: WrappedKey): Promise<void> {
  await db.insertInto("user_key").values({ user_id: userId, version, kid, wrapped, state: "active" }).execute();
}

/** Overwrites the wrapped keys before anything else could keep them; the rows stay, so a version is never reused. */
export async function destroyUserKeys(db: VaultQueries, userId: string): Promise<void> {
  await db
    .updateTable("user_key")
    .set({
      wrapped: sql`decode(repeat('00', octet_length(wrapped)), 'hex')`,
      state: "destroyed",
      destroyed_at: sql`now()`,
    })
    .where("user_id", "=", userId)
    .where("state", "!=", "destroyed")
    .execute();
}
