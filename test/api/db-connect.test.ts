import { sql } from "kysely";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { connectDatabase, DatabaseNotDurableError, poolConfig, verifyDurability } from "../../server/db/connect.ts";
import { isServerUnavailable } from "../../server/db/failures.ts";
import { startCuttingProxy } from "../support/cutting-proxy.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { silentLog } from "../support/postgres-server.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

const connect = (options: Partial<Parameters<typeof connectDatabase>[0]> = {}): ReturnType<typeof connectDatabase> =>
  connectDatabase({ connection: database.connection, poolSize: 2, log: silentLog(), ...options });

describe("connectDatabase", () => {
  it("gives counts as numbers", async () => {
    const { rows } = await sql`select count(*) as count from generate_series(1, 3)`.execute(database.db);
    expect(rows).toEqual([{ count: 3 }]);
  });

  it("refuses an integer that would lose digits", async () => {
    await expect(sql`select 9007199254740993::int8 as large`.execute(database.db)).rejects.toThrow("too large to be exact");
  });

  it("limits statements, waits for locks, and idle transactions", async () => {
    const { db, close } = connect({ statementTimeoutMs: 50 });
    const { rows } =
      await sql`select current_setting('lock_timeout') as lock, current_setting('idle_in_transaction_session_timeout') as idle`.execute(db);
    expect(rows).toEqual([{ lock: "10s", idle: "30s" }]);
    await expect(sql`select pg_sleep(5)`.execute(db)).rejects.toMatchObject({ code: "57014" });
    await close();
  });

  it("reports a cut connection once it happens, in a transaction too, and goes on with a new one", async () => {
    const losses: Error[] = [];
    const { db, close } = connect({ onLost: (error) => losses.push(error) });
    const cut = db.transaction().execute(async (transaction) => {
      const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(transaction);
      await sql`select pg_terminate_backend(${rows[0]?.pid})`.execute(database.db);
      await expect.poll(() => losses.length).toBeGreaterThan(0);
      await sql`select 1`.execute(transaction);
    });
    await expect(cut).rejects.toThrow();
    expect((await sql`select 1 as one`.execute(db)).rows).toEqual([{ one: 1 }]);
    await close();
  });

  it("gives up a server that has fallen silent, inside a transaction too, and goes on when it is heard again", async () => {
    const { host, port, user, password, database: name } = new pg.Client(poolConfig(database.connection));
    const proxy = await startCuttingProxy(host.startsWith("/") ? { path: `${host}/.s.PGSQL.${port}` } : { host, port });
    const connection = { host: "127.0.0.1", port: proxy.port, user: user!, database: name!, ...(password ? { password } : {}) };
    const { db, close } = connect({ connection, poolSize: 1, statementTimeoutMs: 200, silenceMs: 100 });
    await sql`select 1`.execute(db);
    const asking = [() => sql`select 1`.execute(db), () => db.transaction().execute((tx) => sql`select 1`.execute(tx))];
    for (const ask of asking) {
      proxy.mute("back");
      const failure = await ask().then(
        () => undefined,
        (error: unknown) => error,
      );
      expect(isServerUnavailable(failure)).toBe(true);
      proxy.mute();
      expect((await sql`select 1 as one`.execute(db)).rows).toEqual([{ one: 1 }]);
    }
    await close();
    await proxy.close();
  });

  it("reports a server that is not there", async () => {
    const losses: Error[] = [];
    const { db, close } = connect({ connection: { host: "/nowhere" }, onLost: (error) => losses.push(error) });
    await expect(sql`select 1`.execute(db)).rejects.toThrow("ENOENT");
    expect(losses).toHaveLength(1);
    await close();
  });
});

describe("verifyDurability", () => {
  it("accepts a server that keeps what it acknowledges", async () => {
    await expect(verifyDurability(database.db)).resolves.toBeUndefined();
  });

  it("names the setting under which acknowledged writes may be lost", async () => {
    await database.db.connection().execute(async (connection) => {
      await sql`set synchronous_commit = off`.execute(connection);
      const refusal = await verifyDurability(connection).catch((error: unknown) => error);
      expect(refusal).toBeInstanceOf(DatabaseNotDurableError);
      expect(refusal).toMatchObject({ settings: ["synchronous_commit"] });
      await sql`reset synchronous_commit`.execute(connection);
    });
  });
});
