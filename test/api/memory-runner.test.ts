/** What a runner may do to a memory bank through its channel, and what the session's log says of it. */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";
import { MemoryChangeSchema, MemoryObstacle } from "../../gen/carrel/runner/v1/memory_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { reasonOf } from "../../server/errors.ts";
import { provisionDefaults } from "../../server/profiles/provision.ts";
import { createJournalCore, type JournalCore, type Runner } from "../support/journal-core.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";

let database: TestDatabase;
let core: JournalCore;
let profileId: string;

beforeAll(async () => {
  database = await createTestDatabase();
  core = await createJournalCore(database);
  await database.db.transaction().execute((tx) => provisionDefaults(tx, core.ownerId));
  ({ id: profileId } = await database.db
    .selectFrom("profile")
    .select("id")
    .where("owner_id", "=", core.ownerId)
    .orderBy("id")
    .executeTakeFirstOrThrow());
});
afterAll(() => database.drop());

async function openSession(): Promise<string> {
  const id = await core.openSession();
  await database.db.updateTable("session").set({ profile_id: profileId }).where("id", "=", id).execute();
  return id;
}

const file = (path: string, text: string) => create(MemoryChangeSchema, { path, kind: { case: "content", value: Buffer.from(text) } });
const sync = ({ client, sessionId, epoch }: Runner, ...changes: ReturnType<typeof file>[]) =>
  client.syncMemory({ sessionId, epoch, changes });

async function noticesOf(sessionId: string): Promise<string[]> {
  const events = await core.reader.events(await core.reader.session(core.ownerId, sessionId), 0, 1_000);
  return events.flatMap(({ payload }) =>
    payload?.kind.case === "system" ? [`${payload.kind.value.subtype} ${JSON.stringify(payload.kind.value.details)}`] : [],
  );
}

test("what it brings back is what the next runner of the profile is given", async () => {
  const first = await core.attach(await openSession());
  expect(await sync(first, file("a", "1"), file("d/b", "2"))).toMatchObject({ refused: [] });
  expect(await sync(first, file("a", "1"))).toMatchObject({ refused: [] });
  expect(await noticesOf(first.sessionId)).toEqual(['memory_synced {"created":["a","d/b"],"changed":[],"deleted":[]}']);
  const second = await core.attach(await openSession());
  expect(second.manifest?.memory.map(({ path, content }) => [path, Buffer.from(content).toString()])).toEqual([
    ["a", "1"],
    ["d/b", "2"],
  ]);
});

test("a refusal is told once, however often it comes back, and takes nothing else with it", async () => {
  const runner = await core.attach(await openSession());
  const link = create(MemoryChangeSchema, { path: "link", kind: { case: "obstacle", value: MemoryObstacle.NOT_A_FILE } });
  const strange = create(MemoryChangeSchema, { path: "strange", kind: { case: "obstacle", value: 99 as MemoryObstacle } });
  for (let time = 0; time < 3; time += 1) {
    const { refused } = await sync(runner, file("../up", "x"), link, strange, file("\u001b[2Jx", "x"), file("c", `${time}`));
    expect(refused.map(({ reason }) => reason)).toEqual(["invalid_path", "not_a_file", "not_a_file", "invalid_path"]);
  }
  expect(await noticesOf(runner.sessionId)).toEqual([
    'memory_refused {"path":"../up","reason":"invalid_path"}',
    'memory_refused {"path":"link","reason":"not_a_file"}',
    'memory_refused {"path":"strange","reason":"not_a_file"}',
    'memory_refused {"path":"\ufffd[2Jx","reason":"invalid_path"}',
    'memory_synced {"created":["c"],"changed":[],"deleted":[]}',
    ...Array.from({ length: 2 }, () => 'memory_synced {"created":[],"changed":["c"],"deleted":[]}'),
  ]);
});

test("it cannot fill the log with refusals", async () => {
  const runner = await core.attach(await openSession());
  for (let time = 0; time < 5; time += 1)
    await sync(runner, ...Array.from({ length: 100 }, (_, index) => file(`../${time}/${index}`, "x")));
  expect((await noticesOf(runner.sessionId)).length).toBeLessThanOrEqual(200);
});

test("a runner of the past, and one that names another session, change nothing", async () => {
  const old = await core.attach(await openSession());
  const young = await core.attach(old.sessionId);
  const other = await core.attach(await openSession());
  for (const runner of [old, { ...young, client: other.client }, { ...young, epoch: young.epoch + 1 }]) {
    const error = await sync(runner, file("stolen", "x")).catch((cause: unknown) => cause);
    expect(error).toBeInstanceOf(ConnectError);
    expect([reasonOf(error), (error as ConnectError).code]).toEqual([ErrorReason.FENCED, Code.NotFound]);
  }
  const next = await core.attach(await openSession());
  expect(next.manifest?.memory.map(({ path }) => path)).not.toContain("stolen");
});

test("a session whose profile is gone has no memory, and is told so", async () => {
  const id = await core.openSession();
  await database.db
    .updateTable("session")
    .set({ profile_id: `prf_${"0".repeat(32)}` })
    .where("id", "=", id)
    .execute();
  const runner = await core.attach(id);
  expect(runner.manifest?.memory).toEqual([]);
  expect((await sync(runner, file("a", "x"))).refused).toMatchObject([{ path: "a", reason: "profile_gone" }]);
  expect(await noticesOf(id)).toEqual(['memory_refused {"path":"a","reason":"profile_gone"}']);
});
