/** Disk space where no sandbox can limit it: measured, told once, and the end of a session far above its limit. */
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createLog } from "../../server/log.ts";
import { createSpaceWatch, type SpaceWatch } from "../../server/runners/space.ts";
import { createJournalCore, type JournalCore } from "../support/journal-core.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";

const mebibyte = 2 ** 20;

let database: TestDatabase;
let core: JournalCore;
let directory: string;
let watch: SpaceWatch;
const poked: string[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
  core = await createJournalCore(database);
  directory = makeTemporaryDirectory("space");
  watch = createSpaceWatch({
    db: database.db,
    journal: core.journal,
    log: createLog("silent"),
    host: "test",
    directoriesOf: (box) => [
      { name: "workspace", path: path.join(directory, box, "workspace"), limitBytes: 4 * mebibyte },
      { name: "home", path: path.join(directory, box, "home"), limitBytes: 2 * mebibyte },
    ],
    poke: (sessionId) => poked.push(sessionId),
    intervalMs: 3_600_000,
  });
});
afterAll(async () => {
  await watch.close();
  removeDirectory(directory);
  await database.drop();
});

/** A running session with a box; answers with where its files are. */
async function open(box: string): Promise<{ id: string; workspace: string; home: string }> {
  const id = await core.openSession();
  await database.db.updateTable("session").set({ box }).where("id", "=", id).execute();
  await core.attach(id);
  const [workspace, home] = [path.join(directory, box, "workspace"), path.join(directory, box, "home")];
  mkdirSync(workspace, { recursive: true });
  mkdirSync(home);
  return { id, workspace, home };
}

const fill = (file: string, mebibytes: number) => writeFileSync(file, Buffer.alloc(mebibytes * mebibyte, 1));

async function noticesOf(sessionId: string): Promise<string[]> {
  const events = await core.reader.events(await core.reader.session(core.ownerId, sessionId), 0, 1_000);
  return events.flatMap(({ payload }) => (payload?.kind.case === "system" ? [payload.kind.value.message] : []));
}

async function endOf(sessionId: string) {
  const row = await database.db
    .selectFrom("session")
    .select(["desired", "end_reason"])
    .where("id", "=", sessionId)
    .executeTakeFirstOrThrow();
  return [row.desired, row.end_reason];
}

test("a session over a limit says so once, again after it had made room, and goes on", async () => {
  const { id, workspace } = await open("box_over");
  await watch.look();
  expect(await noticesOf(id)).toEqual([]);
  fill(path.join(workspace, "large"), 5);
  await watch.look();
  await watch.look();
  const over = expect.stringMatching(/^the workspace holds [56] MiB, and its limit is 4 MiB$/);
  expect(await noticesOf(id)).toEqual([over]);
  rmSync(path.join(workspace, "large"));
  await watch.look();
  fill(path.join(workspace, "large"), 5);
  await watch.look();
  expect(await noticesOf(id)).toEqual([over, over]);
  expect(await endOf(id)).toEqual(["run", null]);
});

test("a session far over a limit ends, and its log says why; others go on", async () => {
  const { id, home } = await open("box_far");
  const other = await open("box_other");
  mkdirSync(path.join(home, "deep"));
  for (let index = 0; index < 4; index += 1) fill(path.join(home, "deep", `${index}`), 1);
  await watch.look();
  expect(await noticesOf(id)).toEqual([expect.stringMatching(/^the home holds [45] MiB, and its limit is 2 MiB$/)]);
  expect([await endOf(id), await endOf(other.id)]).toEqual([
    ["end", "failed"],
    ["run", null],
  ]);
  expect(poked).toEqual([id]);
  await watch.look();
  expect(await noticesOf(id)).toHaveLength(1);
});

test("links are not followed, and a box that is just going away disturbs nobody", async () => {
  const { id, workspace } = await open("box_links");
  const gone = await open("box_gone");
  rmSync(path.join(directory, "box_gone"), { recursive: true });
  const elsewhere = path.join(directory, "elsewhere");
  fill(elsewhere, 10);
  execFileSync("ln", ["-s", elsewhere, path.join(workspace, "link")]);
  execFileSync("ln", ["-s", "/usr", path.join(workspace, "usr")]);
  await watch.look();
  expect([await noticesOf(id), await noticesOf(gone.id)]).toEqual([[], []]);
});
