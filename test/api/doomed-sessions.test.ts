/** Sessions of somebody who has left are erased some at a time, whatever a server of another release wanted of them. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { createLog } from "../../server/log.ts";
import { createRemoval } from "../../server/registration/removal.ts";
import { closeAccount } from "../../server/registration/store.ts";
import { listDoomed, listDue, recordSetback } from "../../server/runners/store.ts";
import { createJournalCore, type JournalCore } from "../support/journal-core.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";

let database: TestDatabase;
let leaver: JournalCore;
let neighbour: JournalCore;

beforeAll(async () => {
  database = await createTestDatabase();
  leaver = await createJournalCore(database);
  neighbour = await createJournalCore(database);
});
afterAll(() => database?.drop());

test("of sessions of a closed account, those that do something come first, then the oldest, and no more than asked for", async () => {
  const { db } = database;
  const sessions: string[] = [];
  for (let made = 0; made < 4; made += 1) sessions.push(await leaver.openSession());
  const kept = await neighbour.openSession();
  const ended = { state: "ended", terminated_at: new Date() } as const;
  await db.updateTable("session").set(ended).where("id", "in", sessions.slice(0, 2)).execute();
  // What failed before was something else.
  await db
    .updateTable("session")
    .set({ failures: 8, parked_at: new Date(), retry_at: new Date(Date.now() + 60_000) })
    .where("id", "=", sessions[3]!)
    .execute();
  await closeAccount(db, { issuer: "test", subject: leaver.ownerId }, async () => undefined);
  const doomed = async (most: number) => (await listDoomed(db, "test", most)).map(({ id }) => id);
  expect(await doomed(10)).toEqual([...sessions.slice(2), ...sessions.slice(0, 2)]);
  expect(await doomed(3)).toEqual([...sessions.slice(2), sessions[0]]);
  expect(await listDue(db, "test", 1_000)).toEqual([{ id: kept }]);

  const failed = await db.selectFrom("session").selectAll().where("id", "=", sessions[2]!).executeTakeFirstOrThrow();
  await recordSetback(db, failed, 1, 60_000);
  expect(await doomed(3)).toEqual([sessions[3], ...sessions.slice(0, 2)]);

  await db.updateTable("session").set({ desired: "end", end_reason: "failed" }).where("id", "in", sessions).execute();
  expect(await doomed(10)).toEqual([]);
  await createRemoval({ db, log: createLog("silent"), intervalMs: 60_000 }).close();
  expect(await doomed(10)).toHaveLength(4);
  expect(await db.selectFrom("session").select("id").where("parked_at", "is not", null).execute()).toEqual([]);
});
