/** Sessions that are asked for at once are looked for in one statement, and are shown to their owners only. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { createShownSessions } from "../../server/sessions/store.ts";
import { createJournalCore, type JournalCore } from "../support/journal-core.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";

let database: TestDatabase;
/** Two people. */
let cores: [JournalCore, JournalCore];

beforeAll(async () => {
  database = await createTestDatabase();
  cores = [await createJournalCore(database), await createJournalCore(database)];
});
afterAll(() => database?.drop());

test("of many sessions that two people ask for at once, each is shown their own, whole, and nothing of the other's", async () => {
  const sessions = await Promise.all(
    Array.from({ length: 20 }, async (_, index) => ({ owner: index % 2, id: await cores[index % 2]!.openSession() })),
  );
  const find = createShownSessions(database.db);
  const looks = sessions.flatMap(({ owner, id }) =>
    [0, 1].map(async (asking) => ({ own: asking === owner, id, found: await find(cores[asking]!.ownerId, id) })),
  );
  for (const { own, id, found } of await Promise.all(looks)) expect(found?.id).toBe(own ? id : undefined);
  expect(await find(cores[0].ownerId, "ses_absent")).toBeUndefined();
  const { owner, id } = sessions[0]!;
  const row = await database.db.selectFrom("session").selectAll().where("id", "=", id).executeTakeFirstOrThrow();
  const shown = (await find(cores[owner]!.ownerId, id))!;
  expect(row).toMatchObject(shown);
  expect(Object.keys(shown).length).toBeGreaterThan(30);
});
