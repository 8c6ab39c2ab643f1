import type { Generated, Kysely, Transaction } from "kysely";
import type { Database } from "../db/database.ts";

/** One person of one issuer. Unique by issuer and subject; the e-mail address is what the token said at registration. */
export type AppUserTable = {
  id: string;
  issuer: string;
  subject: string;
  email: string | null;
  registered_at: Generated<Date>;
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
