import { sql } from "kysely";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { createListener, type DatabaseListener, notify } from "../../server/db/listen.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { silentLog } from "../support/postgres-server.ts";

let database: TestDatabase;
let listener: DatabaseListener;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterEach(() => listener.close());
afterAll(() => database.drop());

function collect(): { heard: (string | undefined)[]; onNotify: (payload: string | undefined) => void } {
  const heard: (string | undefined)[] = [];
  return { heard, onNotify: (payload) => heard.push(payload) };
}

async function cutListeners(): Promise<void> {
  await sql`select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid() and query ~ '^(listen|select 1)'`.execute(database.db);
}

describe("a database listener", () => {
  it("hears the bells of its channels and no others", async () => {
    listener = createListener({ connection: database.connection, log: silentLog() });
    const [one, two] = [collect(), collect()];
    await listener.listen("one", one.onNotify);
    await listener.listen("Two; drop table", two.onNotify);
    await notify(database.db, "one", "a");
    await notify(database.db, "Two; drop table", "b");
    await notify(database.db, "three", "c");
    await expect.poll(() => two.heard).toEqual(["b"]);
    expect(one.heard).toEqual(["a"]);
  });

  it("hears a bell of a transaction only when it commits", async () => {
    listener = createListener({ connection: database.connection, log: silentLog() });
    const { heard, onNotify } = collect();
    await listener.listen("log", onNotify);
    const rolledBack = database.db.transaction().execute(async (transaction) => {
      await notify(transaction, "log", "never");
      throw new Error("roll back");
    });
    await expect(rolledBack).rejects.toThrow("roll back");
    await database.db.transaction().execute((transaction) => notify(transaction, "log", "kept"));
    await expect.poll(() => heard).toEqual(["kept"]);
  });

  it("reconnects after its connection was cut and rings each listener once, for what it may have missed", async () => {
    const losses: Error[] = [];
    listener = createListener({ connection: database.connection, log: silentLog(), onLost: (error) => losses.push(error) });
    const [one, two] = [collect(), collect()];
    await listener.listen("one", one.onNotify);
    await listener.listen("two", two.onNotify);
    await cutListeners();
    await expect.poll(() => [one.heard, two.heard]).toEqual([[undefined], [undefined]]);
    await notify(database.db, "one", "after");
    await expect.poll(() => one.heard).toEqual([undefined, "after"]);
    expect(losses).toHaveLength(1);
  });

  it("hears nothing more once stopped, while another on the same channel does", async () => {
    listener = createListener({ connection: database.connection, log: silentLog() });
    const [stopped, kept] = [collect(), collect()];
    const stop = await listener.listen("shared", stopped.onNotify);
    await listener.listen("shared", kept.onNotify);
    await stop();
    await notify(database.db, "shared", "x");
    await expect.poll(() => kept.heard).toEqual(["x"]);
    expect(stopped.heard).toEqual([]);
  });

  it("keeps trying while the server is away, and can be closed meanwhile", async () => {
    const losses: Error[] = [];
    listener = createListener({ connection: { host: "/nowhere" }, log: silentLog(), onLost: (error) => losses.push(error) });
    await listener.listen("one", () => undefined);
    await expect.poll(() => losses.length).toBeGreaterThan(2);
    await listener.close();
    const count = losses.length;
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(losses).toHaveLength(count);
  });
});
