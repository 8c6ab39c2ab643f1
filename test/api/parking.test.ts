// How failures of a session's steps are counted in its row, on a real database.
import { sql } from "kysely";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createLocalDisk } from "../../server/blobs/local-disk.ts";
import { openDraft } from "../../server/journal/draft.ts";
import type { SessionRow } from "../../server/journal/store.ts";
import { findSession } from "../../server/journal/store.ts";
import { wake } from "../../server/journal/turns.ts";
import { createLog } from "../../server/log.ts";
import { setBack } from "../../server/runners/parking.ts";
import type { Step } from "../../server/runners/rules.ts";
import { SessionMoved, type StepDeps } from "../../server/runners/step.ts";
import { forgetSetbacks, listDue } from "../../server/runners/store.ts";
import { listUnused } from "../../server/snapshots/store.ts";
import { createJournalCore, type JournalCore } from "../support/journal-core.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";

const directory = makeTemporaryDirectory("parking");
let database: TestDatabase;
let core: JournalCore;

beforeAll(async () => {
  database = await createTestDatabase();
  core = await createJournalCore(database, await createLocalDisk(directory));
});
afterAll(async () => {
  await database?.drop();
  removeDirectory(directory);
});

const row = async (sessionId: string): Promise<SessionRow> => (await findSession(database.db, sessionId))!;
const isDue = async (sessionId: string) => (await listDue(database.db, "test", 60_000)).some(({ id }) => id === sessionId);

async function set(sessionId: string, values: Partial<SessionRow>): Promise<void> {
  await database.db
    .updateTable("session")
    .set(values as object)
    .where("id", "=", sessionId)
    .execute();
}

/** A failure of a step that was decided on when the session was as `seen`. */
async function fail(
  seen: SessionRow,
  { step = "launch" as Step, error = new Error("no"), journal = core.journal, log = createLog("silent"), parkAfterMs = 0 } = {},
): Promise<void> {
  const launcher = { lastOutput: async () => "what it said" } as unknown as StepDeps["launcher"];
  await setBack({ db: database.db, journal, launcher, log, stepTries: 3, parkAfterMs }, seen, step, error);
}

/** As often as it takes. */
async function failUntilParked(sessionId: string, step: Step = "launch"): Promise<void> {
  for (let times = 0; times < 3; times += 1) await fail(await row(sessionId), { step });
  expect((await row(sessionId)).parked_at).not.toBeNull();
}

describe("a step that fails", () => {
  test("is counted and tried again later by the database's clock; the last of its tries parks the session", async () => {
    const id = await core.openSession();
    await fail(await row(id));
    const first = await row(id);
    expect([first.failures, first.parked_at, await isDue(id)]).toEqual([1, null, false]);
    const now = await core.journal.change(
      id,
      (session) => session!,
      (change) => change.now,
    );
    expect(first.retry_at!.getTime() - now.getTime()).toBeGreaterThan(0);
    await fail(first);
    await fail(await row(id));
    const last = await row(id);
    expect([last.failures, last.retry_at, last.parked_at instanceof Date, await isDue(id)]).toEqual([3, null, true, false]);
  });

  test("parks nobody before ten minutes of failing, by the database's clock", async () => {
    const id = await core.openSession();
    const parkAfterMs = 600_000;
    for (let times = 0; times < 5; times += 1) await fail(await row(id), { parkAfterMs });
    const first = await row(id);
    expect(first).toMatchObject({ failures: 5, parked_at: null, failing_since: expect.any(Date), retry_at: expect.any(Date) });
    await fail(first, { parkAfterMs });
    expect((await row(id)).failing_since).toEqual(first.failing_since);
    await database.db
      .updateTable("session")
      .set({ failing_since: sql<Date>`failing_since - interval '10 minutes'` })
      .where("id", "=", id)
      .execute();
    await fail(await row(id), { parkAfterMs });
    expect(await row(id)).toMatchObject({ failures: 7, parked_at: expect.any(Date) });
  });

  test("counts no longer once a step is taken", async () => {
    const id = await core.openSession();
    await fail(await row(id));
    await forgetSetbacks(database.db, await row(id));
    expect(await row(id)).toMatchObject({ failures: 0, failing_since: null, retry_at: null });
    expect(await isDue(id)).toBe(true);
  });

  test("is counted once when two servers have taken it, and parks a session once", async () => {
    const id = await core.openSession();
    const seen = await row(id);
    await Promise.all([fail(seen), fail(seen)]);
    expect((await row(id)).failures).toBe(1);
    await fail(await row(id));
    const before = await row(id);
    const both = await Promise.allSettled([fail(before), fail(before)]);
    expect(both.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected"]);
    expect((both.find(({ status }) => status === "rejected") as PromiseRejectedResult).reason).toBeInstanceOf(SessionMoved);
    const parked = await row(id);
    await fail(parked).catch(() => undefined);
    expect((await row(id)).last_seq).toBe(parked.last_seq);
  });

  test("is not counted when the database was away: the session is only left alone for a moment", async () => {
    const id = await core.openSession();
    for (const code of ["57P01", "08006", "40001", "ECONNREFUSED"])
      for (let times = 0; times < 3; times += 1) await fail(await row(id), { error: Object.assign(new Error("gone"), { code }) });
    const { failures, failing_since, parked_at, retry_at } = await row(id);
    expect([failures, failing_since, parked_at, retry_at instanceof Date]).toEqual([0, null, null, true]);
  });

  test("is not counted against what is wanted since: an end is tried at once, and for ever", async () => {
    const id = await core.openSession();
    await fail(await row(id));
    const seen = await row(id);
    await database.db.updateTable("session").set({ desired: "end", failures: 0, retry_at: null }).where("id", "=", id).execute();
    await fail(seen);
    expect([(await row(id)).failures, await isDue(id)]).toEqual([0, true]);
    for (let times = 0; times < 9; times += 1) await fail(await row(id), { step: "force_end" });
    expect(await row(id)).toMatchObject({ failures: 9, parked_at: null });
  });

  test("is not counted against who was parked and asked for while the step was under way", async () => {
    const id = await core.openSession();
    await fail(await row(id));
    const seen = await row(id);
    for (let times = 0; times < 2; times += 1) await fail(await row(id));
    expect((await row(id)).parked_at).not.toBeNull();
    await core.prompt(id, "go on");
    await fail(seen);
    expect(await row(id)).toMatchObject({ failures: 0, retry_at: null });
  });

  test("is looked at once more when it is well, so that the failure is forgotten", async () => {
    const id = await core.openSession();
    await core.attach(id);
    expect(await isDue(id)).toBe(false);
    await set(id, { failures: 7, failing_since: new Date(0), retry_at: new Date(0) });
    expect(await isDue(id)).toBe(true);
    await forgetSetbacks(database.db, await row(id));
    expect(await isDue(id)).toBe(false);
  });

  test("parks nobody whose runner attached and works before the launch came to nothing", async () => {
    const id = await core.openSession();
    for (let times = 0; times < 2; times += 1) await fail(await row(id));
    const seen = await row(id);
    await core.attach(id);
    await expect(fail(seen)).rejects.toBeInstanceOf(SessionMoved);
    expect(await row(id)).toMatchObject({ state: "running", parked_at: null });
  });

  test("is told the operator each time, with what to find it by", async () => {
    const id = await core.openSession();
    const lines: { level: number; session_id: string; step: string; times: number; err: { message: string }; msg: string }[] = [];
    const log = pino({}, { write: (line) => void lines.push(JSON.parse(line)) });
    for (let times = 0; times < 3; times += 1) await fail(await row(id), { log });
    expect(lines.map(({ level, times, msg }) => [level, times, msg])).toEqual([
      [40, 1, "session step failed"],
      [40, 2, "session step failed"],
      [50, 3, "session parked: its steps failed too often"],
    ]);
    expect(lines[2]).toMatchObject({ session_id: id, step: "launch", err: { message: "no" } });
  });

  test("parks also a session whose log cannot be written", async () => {
    const id = await core.openSession();
    const journal = { ...core.journal, change: () => Promise.reject(new Error("the key does not open")) };
    for (let times = 0; times < 3; times += 1) await fail(await row(id), { journal });
    expect(await row(id)).toMatchObject({ failures: 3, error_message: null, parked_at: expect.any(Date) });
  });
});

describe("a parked session", () => {
  test("is due again with a prompt, also one that waits for people, and what it was parked for is forgotten", async () => {
    const id = await core.openSession();
    await core.prompt(id, "begin");
    await failUntilParked(id);
    expect((await row(id)).error_message).not.toBeNull();
    await database.db.updateTable("session").set({ turn: 1, pending_count: 1 }).where("id", "=", id).execute();
    const { queued } = await core.prompt(id, "go on");
    expect([queued, await isDue(id)]).toEqual([true, true]);
    expect(await row(id)).toMatchObject({ failures: 0, retry_at: null, parked_at: null, error_message: null, queued_prompts: 2 });
  });

  test("is looked at as soon as somebody asks for it, though the same is wanted of it", async () => {
    const id = await core.openSession();
    await failUntilParked(id);
    const draft = openDraft({ ...(await row(id)), locked_at: new Date() }, await core.userVault(core.ownerId), () => {
      throw new Error("nothing else is written");
    });
    expect(draft.isWish()).toBe(false);
    await wake(draft.change);
    expect(draft.isWish()).toBe(true);
  });

  test("is due when it is to end, or its lifetime is over", async () => {
    const [ending, over] = [await core.openSession(), await core.openSession()];
    for (const id of [ending, over]) await failUntilParked(id);
    await database.db.updateTable("session").set({ desired: "end" }).where("id", "=", ending).execute();
    await database.db
      .updateTable("session")
      .set({ ends_at: new Date(0) })
      .where("id", "=", over)
      .execute();
    expect([await isDue(ending), await isDue(over)]).toEqual([true, true]);
  });

  test("is not tried every second when its end fails too, and stays parked", async () => {
    const id = await core.openSession();
    await failUntilParked(id);
    await database.db
      .updateTable("session")
      .set({ ends_at: new Date(0) })
      .where("id", "=", id)
      .execute();
    const seen = await row(id);
    // That it cannot even be seen how its sandbox is parks nobody twice.
    for (const step of ["expire", "wait"] as const) await fail(await row(id), { step });
    const after = await row(id);
    expect([after.failures, after.retry_at instanceof Date, await isDue(id)]).toEqual([5, true, false]);
    expect([after.parked_at, after.last_seq]).toEqual([seen.parked_at, seen.last_seq]);
  });

  test("is among those that nobody uses once it has been parked for so long", async () => {
    const id = await core.openSession();
    await failUntilParked(id);
    const isUnused = async () => (await listUnused(database.db, 60_000)).some((one) => one.id === id);
    expect(await isUnused()).toBe(false);
    await database.db
      .updateTable("session")
      .set({ parked_at: new Date(0) })
      .where("id", "=", id)
      .execute();
    expect(await isUnused()).toBe(true);
  });

  test.each(["was thought lost", "was never lost"])("is parked no longer when its runner, which %s, speaks", async (how) => {
    const id = await core.openSession();
    const { client, epoch } = await core.attach(id);
    await failUntilParked(id, "recover");
    if (how === "was thought lost") await set(id, { lease_until: new Date(0) });
    await client.reportEvents({ sessionId: id, epoch, firstRunnerSeq: 1, events: [] });
    expect(await row(id)).toMatchObject({ parked_at: null, failures: 0, error_message: null });
  });

  test("is parked no longer when its files are back after all", async () => {
    const id = await core.openSession();
    await set(id, { restoring: true, snapshot_generation: 1 });
    const { client, epoch } = await core.attach(id);
    await failUntilParked(id, "give_up_restore");
    await client.reportRestore({ sessionId: id, epoch, failure: "" });
    expect(await row(id)).toMatchObject({ parked_at: null, state: "running", restoring: false, error_message: null });
  });

  test("is parked no longer when its snapshot is there after all", async () => {
    const id = await core.openSession();
    const { client, epoch } = await core.attach(id);
    await set(id, { state: "hibernating", desired: "hibernate" });
    await failUntilParked(id, "stay_awake");
    const piece = { sessionId: id, epoch, generation: 1, data: new Uint8Array(9), last: true };
    const pieces = async function* () {
      yield piece;
    };
    expect(await client.putSnapshot(pieces())).toMatchObject({ committed: true });
    expect(await row(id)).toMatchObject({ parked_at: null, state: "dormant", snapshot_generation: 1, error_message: null });
  });

  test("is parked no longer when a runner attaches after all", async () => {
    const id = await core.openSession();
    await failUntilParked(id);
    await core.attach(id);
    expect(await row(id)).toMatchObject({ parked_at: null, state: "running", error_message: null });
  });
});
