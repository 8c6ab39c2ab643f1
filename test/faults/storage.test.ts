/** Every call of every storage, made to fail before, to fail after it was done, and to hang: whoever repeats it in the end has what one call would have given. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { BlobStore } from "../../server/blobs/store.ts";
import { connectDatabase, type DatabaseConnection, poolConfig } from "../../server/db/connect.ts";
import { createArchives } from "../../server/snapshots/archives.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { silentLog } from "../support/postgres-server.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";
import { createPlan, faulty, faultyClientOf, storageFaults } from "./storage/faulty.ts";
import { createStage, openBlobs, type Stage, tell } from "./storage/story.ts";

/** Of the statements, each so many-th is made to fail; the long form takes all. */
const stride = Number(process.env["CARREL_TEST_STORAGE_STRIDE"] ?? 16);

let database: TestDatabase;
let directory: string;
const connections: DatabaseConnection[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
  directory = makeTemporaryDirectory("blobs");
});
afterAll(async () => {
  for (const { close } of connections) await close();
  await database?.drop();
  removeDirectory(directory);
});

const statements = createPlan();
const blobCalls = createPlan();

async function* zeros(bytes: number): AsyncGenerator<Uint8Array> {
  yield new Uint8Array(bytes);
}

async function stage(): Promise<Stage> {
  const connection = { ...poolConfig(database.connection), Client: faultyClientOf(statements) };
  const faultyDatabase = connectDatabase({ connection, poolSize: 4, log: silentLog() });
  connections.push(faultyDatabase);
  const blobs = await openBlobs(directory);
  return createStage({ db: faultyDatabase.db, blobs: faulty(blobs, blobCalls) }, { db: database.db, blobs });
}

test("without a fault nothing is wrong", async () => {
  expect(await tell(await stage())).toEqual([]);
});

describe("the object store", () => {
  test("a snapshot that it did not keep as it was given is not counted on, and nothing of it stays", async () => {
    const { core } = await stage();
    const blobs = await openBlobs(directory);
    const place = { ownerId: core.ownerId, sessionId: "ses_x", generation: 1, archive: "ses_x/arc_x" };
    // It says that all is well, and has lost the end.
    const forgetful: BlobStore = {
      ...blobs,
      put: (key, content) => blobs.put(key, content).then((digest) => blobs.put(key, zeros(7)).then(() => digest)),
    };
    await expect(createArchives(forgetful, core.userVault).put(place, zeros(300_000))).rejects.toThrow();
    expect(await blobs.stat("snapshots/ses_x/arc_x")).toBeUndefined();
  });

  test.each(storageFaults)("each of its methods, at each call: %s", async (how) => {
    const scene = await stage();
    blobCalls.arm();
    expect(await tell(scene)).toEqual([]);
    const calls = [...blobCalls.calls];
    const port = Object.keys(await openBlobs(directory));
    expect(port.filter((name) => !calls.includes(name))).toEqual([]);
    for (const [at, name] of calls.entries()) {
      blobCalls.arm({ at, how });
      expect([name, at, await tell(scene)]).toEqual([name, at, []]);
    }
    blobCalls.disarm();
  });
});

describe("the database", () => {
  test.each(storageFaults)("each statement, begin and commit among them: %s", async (how) => {
    const scene = await stage();
    statements.arm();
    expect(await tell(scene)).toEqual([]);
    const calls = [...statements.calls];
    expect(calls).toEqual(expect.arrayContaining(["begin", "commit"]));
    for (let at = storageFaults.indexOf(how) % stride; at < calls.length; at += stride) {
      statements.arm({ at, how });
      const violations = await tell(scene).catch((error: unknown) => [String(error)]);
      expect([how, at, calls[at], violations]).toEqual([how, at, calls[at], []]);
    }
    statements.disarm();
    console.info(`storage: ${calls.length} statements, one of ${stride} made to fail: ${how}`);
  });
});
