/** Closing an account and everything else that locks it and its sessions: whoever is first, none waits for one that waits for it. */
import { create } from "@bufbuild/protobuf";
import { type Kysely, sql } from "kysely";
import { afterAll, beforeAll, expect, test } from "vitest";
import { SendPromptRequestSchema } from "../../gen/carrel/v1/channel_service_pb.ts";
import { createChannelActions } from "../../server/channel/actions.ts";
import { connectDatabase } from "../../server/db/connect.ts";
import type { Database } from "../../server/db/database.ts";
import { insertTicket } from "../../server/identity/tickets/store.ts";
import { present } from "../../server/journal/journal.ts";
import { lockSession } from "../../server/journal/store.ts";
import { createRateLimiter } from "../../server/limits/limiter.ts";
import { closeAccount, deleteAccount, doomSessionsOfClosed } from "../../server/registration/store.ts";
import { claimWithin, forgetOldRequestIds, once } from "../../server/sessions/request-ids.ts";
import { aliveOf } from "../../server/sessions/service.ts";
import { deleteErased } from "../../server/sessions/store.ts";
import { forgetExpired } from "../../server/snapshots/store.ts";
import { createJournalCore, type JournalCore } from "../support/journal-core.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { silentLog } from "../support/postgres-server.ts";

let database: TestDatabase;
/** With connections enough for everybody who waits. */
let wide: { db: Kysely<Database>; close(): Promise<void> };

beforeAll(async () => {
  database = await createTestDatabase();
  wide = connectDatabase({ connection: database.connection, poolSize: 24, log: silentLog() });
});
afterAll(async () => {
  await wide?.close();
  await database?.drop();
});

/** A person with sessions, and what may happen to them at once. */
async function person(sessions: number) {
  const { db } = wide;
  const core = await createJournalCore(wide);
  const ids: string[] = [];
  for (let made = 0; made < sessions; made += 1) ids.push(await core.openSession());
  let calls = 0;
  return {
    ids,
    /** Knows the sessions as it leaves them, so that its next prompt is one statement. */
    settle: (sessionId: string) =>
      core.journal.changeOptimistically(sessionId, present, ({ set, now }) => set({ state: "running", active_at: now })),
    send: (sessionId: string) =>
      actionsOf(core).sendPrompt(
        { issuer: "test", subject: core.ownerId, email: undefined, operator: false, expiresAt: Infinity, userId: core.ownerId },
        create(SendPromptRequestSchema, { sessionId, text: "hello", requestId: `call-${(calls += 1)}` }),
      ),
    buyTicket: (sessionId: string) => {
      const hash = Buffer.from(`${sessionId}-${(calls += 1)}`);
      const token_expires_at = new Date(Date.now() + 60_000);
      return insertTicket(db, { hash, session_id: sessionId, user_id: core.ownerId, email: null, token_expires_at, lifetimeMs: 0 });
    },
    leave: () => closeAccount(db, { issuer: "test", subject: core.ownerId }, async () => undefined),
    remove: async () => {
      for (const id of ids) await deleteErased(db, id);
      await deleteAccount(db, core.ownerId);
    },
  };
}

function actionsOf({ journal, userVault }: JournalCore) {
  return createChannelActions({
    db: wide.db,
    journal,
    limiter: createRateLimiter({ perMinute: { registrations: 1, sessionCreates: 1, tickets: 1, prompts: 1_000 } }),
    rules: { derive: () => undefined, matches: () => false, verdict: () => ({ behavior: "ask" }) },
    userVault,
    aliveOf,
    requestIds: { once, claimWithin },
  });
}

/** Resolves when so many connections wait for a lock. */
async function waiting(count: number): Promise<void> {
  const look = () =>
    sql<{ pid: number }>`select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`.execute(
      database.db,
    );
  await expect.poll(async () => (await look()).rows.length, { interval: 5, timeout: 5_000 }).toBe(count);
}

/** What Postgres itself ended: it says so to one of those that waited for each other. */
const deadlocks = (outcomes: PromiseSettledResult<unknown>[]) =>
  outcomes.filter((outcome) => outcome.status === "rejected" && (outcome.reason as { code?: string }).code === "40P01");

for (const kind of ["send", "buyTicket"] as const) {
  test(`${kind} and a leaving that meet at one session: both come through`, async () => {
    const leaver = await person(1);
    const [id] = leaver.ids;
    const blocked = await wide.db.startTransaction().execute();
    await lockSession(blocked, id!);
    const call = leaver[kind](id!);
    await waiting(1);
    const left = leaver.leave();
    await waiting(2);
    await blocked.commit().execute();
    expect((await Promise.allSettled([call, left])).map(({ status }) => status)).toEqual(["fulfilled", "fulfilled"]);
  });
}

test("many of all kinds at once never wait for each other in a circle", async () => {
  const outcomes: PromiseSettledResult<unknown>[] = [];
  let sent = 0;
  for (let round = 0; round < 40; round += 1) {
    const leaver = await person(3);
    for (const id of leaver.ids) await leaver.settle(id);
    const prompts = [...leaver.ids, ...leaver.ids].map((id) => leaver.send(id));
    const calls: Promise<unknown>[] = [...prompts, ...leaver.ids.map((id) => leaver.buyTicket(id))];
    // The leaving comes a little later each time.
    for (let turn = 0; turn < round; turn += 1) await new Promise(setImmediate);
    calls.push(leaver.leave(), ...leaver.ids.map((id) => leaver.send(id)), doomSessionsOfClosed(wide.db), forgetOldRequestIds(wide.db));
    outcomes.push(...(await Promise.allSettled(calls)));
    sent += (await Promise.allSettled(prompts)).filter(({ status }) => status === "fulfilled").length;
    outcomes.push(...(await Promise.allSettled([leaver.remove(), doomSessionsOfClosed(wide.db)])));
  }
  expect(deadlocks(outcomes)).toEqual([]);
  expect(sent, "some came before the leaving").toBeGreaterThan(0);
});

test("snapshots that are too old wait for nobody who has their session, and go the next time", async () => {
  const { db } = wide;
  const {
    ids: [session_id],
  } = await person(1);
  const digest = Buffer.alloc(32);
  const snapshot = { session_id: session_id!, generation: 1, epoch: 1, base_generation: null, seq: 1, conversation: "", bytes: 1, digest };
  await db
    .insertInto("snapshot")
    .values({ ...snapshot, archive: `${session_id}/old` })
    .execute();
  const ended = { state: "ended", snapshot_generation: 1, terminated_at: new Date(0) } as const;
  await db.updateTable("session").set(ended).where("id", "=", session_id!).execute();
  const blocked = await db.startTransaction().execute();
  await lockSession(blocked, session_id!);
  expect(await forgetExpired(db, 1_000)).toEqual([]);
  await blocked.commit().execute();
  expect(await forgetExpired(db, 1_000)).toEqual([`${session_id}/old`]);
  expect(await forgetExpired(db, 1_000)).toEqual([]);
});
