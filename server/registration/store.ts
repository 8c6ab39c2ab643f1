import { type Generated, type Kysely, type SelectQueryBuilder, sql, type Transaction } from "kysely";
import type { Database } from "../db/database.ts";
import { afresh } from "../journal/rules.ts";

/**
 * One person of one issuer. Unique by issuer and subject; the e-mail address is what the token said at registration. Who has
 * left is named by nothing any more, and the row stays only until everything of theirs is gone.
 */
export type AppUserTable = {
  id: string;
  issuer: string | null;
  subject: string | null;
  email: string | null;
  registered_at: Generated<Date>;
  deregistered_at: Generated<Date | null>;
};

/** Who somebody is for the issuer that names them. */
export type Identity = { issuer: string; subject: string };
export type Registration = { userId: string; registeredAt: Date };

export async function findRegistration(db: Kysely<Database>, { issuer, subject }: Identity): Promise<Registration | undefined> {
  return db
    .selectFrom("app_user")
    .select(["id as userId", "registered_at as registeredAt"])
    .where("issuer", "=", issuer)
    .where("subject", "=", subject)
    .executeTakeFirst();
}

/** Adds the user and runs `provision` in one transaction. Undefined when the identity is registered already. */
export async function insertUser(
  db: Kysely<Database>,
  user: Identity & { userId: string; email: string | undefined },
  provision: (tx: Transaction<Database>) => Promise<void>,
): Promise<Registration | undefined> {
  return db.transaction().execute(async (tx) => {
    // A concurrent registration of the same person waits here until the first is committed or rolled back.
    const inserted = await tx
      .insertInto("app_user")
      .values({ id: user.userId, issuer: user.issuer, subject: user.subject, email: user.email ?? null })
      .onConflict((conflict) => conflict.columns(["issuer", "subject"]).doNothing())
      .returning(["id as userId", "registered_at as registeredAt"])
      .executeTakeFirst();
    if (inserted) await provision(tx);
    return inserted;
  });
}

/**
 * Closes the account of an identity and runs `shred` in one transaction: the identity is free, no session of the account may
 * go on, and no token of a runner or agent of theirs opens anything. Returns the account; undefined when there is none.
 */
export async function closeAccount(
  db: Kysely<Database>,
  { issuer, subject }: Identity,
  shred: (tx: Transaction<Database>, userId: string) => Promise<void>,
): Promise<string | undefined> {
  return db.transaction().execute(async (tx) => {
    const closed = await tx
      .updateTable("app_user")
      .set({ issuer: null, subject: null, email: null, deregistered_at: sql`clock_timestamp()` })
      .where("issuer", "=", issuer)
      .where("subject", "=", subject)
      .returning("id")
      .executeTakeFirst();
    if (!closed) return undefined;
    await shred(tx, closed.id);
    await doom(tx, [closed.id]);
    return closed.id;
  });
}

const doomed = { desired: "erase", attach_hash: null, lease_hash: null, phantom_hash: null, ...afresh } as const;

async function doom(db: Kysely<Database>, owners: string[] | SelectQueryBuilder<Database, "app_user", { id: string }>): Promise<void> {
  const theirs = db.selectFrom("session").select("id").where("owner_id", "in", owners).where("desired", "<>", "erase");
  await db.updateTable("session").set(doomed).where("id", "in", theirs.orderBy("id").forUpdate()).execute();
}

/**
 * Wants every session of closed accounts erased. They are from the moment of the closing; but a server of a release that knows
 * nothing of it may want one ended instead, and then nobody would erase it.
 */
export async function doomSessionsOfClosed(db: Kysely<Database>): Promise<void> {
  const closed = db.selectFrom("app_user").select("id").where("deregistered_at", "is not", null);
  await doom(db, closed);
}

/** Sessions of an account, of this installation, that have not ended. */
export async function listUnendedOf(db: Kysely<Database>, userId: string, host: string): Promise<string[]> {
  const rows = await db
    .selectFrom("session")
    .select("id")
    .where("owner_id", "=", userId)
    .where("host", "=", host)
    .where("state", "<>", "ended")
    .execute();
  return rows.map(({ id }) => id);
}

/** Which of these accounts are closed, or gone. */
export async function listDeparted(db: Kysely<Database>, userIds: string[]): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`select id from unnest(${userIds}::uuid[]) as one (id)
    where not exists (select from app_user where app_user.id = one.id and deregistered_at is null)`.execute(db);
  return rows.map(({ id }) => id);
}

/** Closed accounts of which no session is left. */
export async function listClosed(db: Kysely<Database>): Promise<string[]> {
  const rows = await db
    .selectFrom("app_user")
    .select("id")
    .where("deregistered_at", "is not", null)
    .where((e) => e.not(e.exists(e.selectFrom("session").select("session.id").whereRef("owner_id", "=", "app_user.id"))))
    .orderBy("deregistered_at")
    .execute();
  return rows.map(({ id }) => id);
}

/**
 * Removes a closed account with all that is left of it. Fails, and removes nothing, when a call that began before the closing
 * has left something meanwhile that is not looked for here: no row of a person outlives the account.
 */
export async function deleteAccount(db: Kysely<Database>, userId: string): Promise<void> {
  await db.transaction().execute(async (tx) => {
    const closed = tx.selectFrom("app_user").select("id").where("id", "=", userId).where("deregistered_at", "is not", null);
    if ((await closed.forUpdate().execute()).length === 0) return;
    await tx.deleteFrom("rate_limit").where("subject", "=", userId).execute();
    for (const table of ["request_id", "default_profile", "profile"] as const)
      await tx.deleteFrom(table).where("owner_id", "=", userId).execute();
    for (const table of ["credential", "socket_ticket", "user_key"] as const)
      await tx.deleteFrom(table).where("user_id", "=", userId).execute();
    await tx.deleteFrom("app_user").where("id", "=", userId).execute();
  });
}
