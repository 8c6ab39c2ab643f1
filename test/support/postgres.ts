/** A real database of its own for each test file, cloned from the migrated template. */

import { randomBytes } from "node:crypto";
import type { Kysely } from "kysely";
import { inject } from "vitest";
import { connectDatabase, type DatabaseAddress } from "../../server/db/connect.ts";
import type { Database } from "../../server/db/database.ts";
import { addressOf, createDatabase, dropDatabase } from "./postgres-admin.ts";
import { silentLog } from "./postgres-server.ts";

/** `connection` for a server under test, `db` for arranging and looking. `drop` in afterAll. */
export type TestDatabase = { connection: DatabaseAddress; db: Kysely<Database>; drop(): Promise<void> };

/** @param options.empty a database without the schema. */
export async function createTestDatabase(options: { empty?: boolean } = {}): Promise<TestDatabase> {
  const { server, template } = inject("postgres");
  const name = `carrel_test_${process.pid}_${randomBytes(4).toString("hex")}`;
  await createDatabase(server, name, options.empty === true ? "template0" : template);
  const connection = addressOf(server, name);
  const { db, close } = connectDatabase({ connection, poolSize: 4, log: silentLog() });
  return {
    connection,
    db,
    drop: async () => {
      await close();
      await dropDatabase(server, name);
    },
  };
}
