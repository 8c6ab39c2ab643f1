import { type Kysely, sql } from "kysely";
import type { Migration } from "kysely/migration";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { connectDatabase } from "../../server/db/connect.ts";
import type { Database } from "../../server/db/database.ts";
import { migrateToLatest, SchemaMismatchError, verifyMigrated } from "../../server/db/migrate.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { silentLog } from "../support/postgres-server.ts";

let database: TestDatabase;
beforeEach(async () => {
  database = await createTestDatabase({ empty: true });
});
afterEach(() => database.drop());

const statement = (text: string): Migration => ({
  up: (db: Kysely<unknown>) =>
    sql
      .raw(text)
      .execute(db)
      .then(() => undefined),
});
const first = { "0001_one": statement("create table one (id int)") };
const second = { ...first, "0002_two": statement("create table two (id int)") };

async function tables(db: Kysely<Database>): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`select relname as name from pg_class where relname in ('one', 'two') order by 1`.execute(db);
  return rows.map((row) => row.name);
}

describe("migrateToLatest", () => {
  it("applies each migration once when ten servers start together", async () => {
    const servers = Array.from({ length: 10 }, () =>
      connectDatabase({ connection: database.connection, poolSize: 1, lockTimeoutMs: 1, log: silentLog() }),
    );
    const slow = { ...second, "0003_slow": statement("select pg_sleep(0.3)") };
    const applied = await Promise.all(servers.map(({ db }) => migrateToLatest(db, slow)));
    expect(applied.flat().sort()).toEqual(["0001_one", "0002_two", "0003_slow"]);
    await Promise.all(servers.map(({ close }) => close()));
  });

  it("changes nothing when one of the migrations fails, and names it", async () => {
    const broken = { ...first, "0002_broken": statement("create table one (id int)") };
    await expect(migrateToLatest(database.db, broken)).rejects.toThrow("migration 0002_broken failed");
    expect(await tables(database.db)).toEqual([]);
    expect(await migrateToLatest(database.db, first)).toEqual(["0001_one"]);
  });

  it("gives the connection back with its limits", async () => {
    const { db, close } = connectDatabase({ connection: database.connection, poolSize: 1, statementTimeoutMs: 1234, log: silentLog() });
    await migrateToLatest(db, first);
    expect((await sql`select current_setting('statement_timeout') as limit`.execute(db)).rows).toEqual([{ limit: "1234ms" }]);
    await close();
  });

  it("leaves a database alone that a newer Carrel changed compatibly", async () => {
    await migrateToLatest(database.db, second);
    expect(await migrateToLatest(database.db, first)).toEqual([]);
    await expect(verifyMigrated(database.db, first)).resolves.toBeUndefined();
  });
});

describe("verifyMigrated", () => {
  it("names what has not been applied", async () => {
    await expect(verifyMigrated(database.db, second)).rejects.toMatchObject({ missing: ["0001_one", "0002_two"] });
    await migrateToLatest(database.db, first);
    await expect(verifyMigrated(database.db, second)).rejects.toThrow("0002_two not applied");
  });

  it("refuses a database that a newer Carrel changed so that this one cannot work with it", async () => {
    await migrateToLatest(database.db, { ...first, "0002_two_breaking": statement("drop table one") });
    for (const attempt of [verifyMigrated, migrateToLatest]) {
      const refusal = await attempt(database.db, first).catch((error: unknown) => error);
      expect(refusal).toBeInstanceOf(SchemaMismatchError);
      expect(refusal).toMatchObject({ unknown: ["0002_two_breaking"] });
    }
  });

  it("is satisfied with the real migrations on a fresh database", async () => {
    await migrateToLatest(database.db);
    await expect(verifyMigrated(database.db)).resolves.toBeUndefined();
  });
});
