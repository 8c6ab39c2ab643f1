/** Disks that are full at each stage of putting a session away and bringing it back: what was kept stays, and with room again all goes on. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import type { Event } from "../../gen/carrel/v1/event_pb.ts";
import { SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import { type App, createApp } from "../../server/app.ts";
import { readConfig } from "../../server/config.ts";
import { connectDatabase, type DatabaseConnection } from "../../server/db/connect.ts";
import { createLog } from "../../server/log.ts";
import { createInstallation, type Installation } from "../support/carrel.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { silentLog } from "../support/postgres-server.ts";
import { repeated } from "../support/repeated.ts";
import { destroySandboxes, placesOf } from "../support/sandboxes.ts";
import { mountSmallDisk, noSmallDisks, type SmallDisk } from "../support/small-disks.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

const mebibyte = 2 ** 20;

let installation: Installation;
let app: App;
let person: Person;
let watcher: Watcher | undefined;
let database: DatabaseConnection;
let disks: { blobs: SmallDisk; sandboxes: SmallDisk; postgres: SmallDisk } | undefined;

beforeAll(async () => {
  if (noSmallDisks) return;
  installation = await createInstallation({
    ...unlimited,
    DATABASE_URL: "",
    CARREL_STANDBY_SANDBOXES: "0",
    CARREL_DISK_RESERVE_BYTES: "0",
    CARREL_LIMIT_WORKSPACE_BYTES: String(64 * mebibyte),
    CARREL_LIMIT_HOME_BYTES: String(64 * mebibyte),
  });
  const { data, run } = placesOf(installation);
  disks = {
    blobs: mountSmallDisk(join(data, "blobs"), 160),
    sandboxes: mountSmallDisk(join(data, "sandboxes"), 144),
    postgres: mountSmallDisk(join(data, "postgres"), 256),
  };
  app = await createApp(readConfig(installation.environment), createLog("error"));
  person = await signUp(installation, app.url, "full@example.com");
  const connection = { host: join(run, "pg"), port: 5432, user: "carrel", database: "carrel" };
  database = connectDatabase({ connection, poolSize: 2, log: silentLog() });
});
afterEach(async () => {
  for (const disk of Object.values(disks ?? {})) disk.clear();
  await watcher?.stop();
});
afterAll(async () => {
  await database?.close();
  await app?.close();
  if (installation) await destroySandboxes(installation);
  for (const disk of Object.values(disks ?? {})) disk.unmount();
  await installation?.remove();
});

async function open(): Promise<string> {
  const sessionId = await openSession(person);
  watcher = watch(person, sessionId);
  return sessionId;
}

/** What the shell said. */
async function bash(sessionId: string, command: string): Promise<string> {
  const from = watcher!.events.length;
  await person.channel.sendPrompt({ sessionId, text: `[[tool Bash ${JSON.stringify({ command })}]]` });
  await watcher!.untilKind("result", () => true, 40_000, from);
  return JSON.stringify(ofKind(watcher!.events.slice(from), "toolResult")[0]?.content);
}

async function noticed(subtype: string, from: number): Promise<string> {
  return (await watcher!.untilKind("system", (notice) => notice.subtype === subtype, 40_000, from)).message;
}

async function putAway(sessionId: string): Promise<void> {
  const from = watcher!.events.length;
  await person.sessions.hibernateSession({ sessionId });
  const isOver = ({ payload }: Event) =>
    (payload?.kind.case === "sessionStatus" && payload.kind.value.detail === SessionDetail.DORMANT) ||
    (payload?.kind.case === "system" && payload.kind.value.subtype === "hibernation_failed");
  expect((await watcher!.until(isOver, 30_000, from)).payload?.kind.value).toMatchObject({ detail: SessionDetail.DORMANT });
}

async function detailOf(sessionId: string): Promise<SessionDetail> {
  return (await repeated(() => person.sessions.getSession({ sessionId }))).session!.detail;
}

const kept = (sessionId: string) =>
  database.db.selectFrom("snapshot").select("generation").where("session_id", "=", sessionId).orderBy("generation").execute();

function blobFiles(): string[] {
  const all = readdirSync(join(placesOf(installation).data, "blobs"), { recursive: true, withFileTypes: true });
  return all.filter((entry) => entry.isFile() && entry.name !== "@filler").map(({ name }) => name);
}

async function finish(sessionId: string): Promise<void> {
  await repeated(() => person.sessions.terminateSession({ sessionId }));
  await watcher!.ended(40_000);
}

test("no room for the first piece of a snapshot: the session stays awake and says so, and rests when there is room", async ({ skip }) => {
  if (!disks) skip(noSmallDisks);
  const sessionId = await open();
  await bash(sessionId, "echo precious > kept");
  disks!.blobs.fill(4 * mebibyte);
  const from = watcher!.events.length;
  await person.sessions.hibernateSession({ sessionId });
  expect(await noticed("hibernation_failed", from)).toContain("no room");
  expect([await detailOf(sessionId), await kept(sessionId), blobFiles()]).toEqual([SessionDetail.IDLE, [], []]);
  expect(await bash(sessionId, "cat kept")).toContain("precious");
  disks!.blobs.clear();
  await putAway(sessionId);
  expect(await bash(sessionId, "cat kept")).toContain("precious");
  await finish(sessionId);
}, 90_000);

test("no room in the middle of a snapshot: the one before stays current, nothing of the half one is left, and the next is whole", async ({
  skip,
}) => {
  if (!disks) skip(noSmallDisks);
  const sessionId = await open();
  await bash(sessionId, "echo first > kept");
  await putAway(sessionId);
  const before = blobFiles().length;
  const sum = await bash(sessionId, "head -c 22M /dev/urandom > large; sha256sum < large");
  disks!.blobs.fill(18 * mebibyte);
  const from = watcher!.events.length;
  await person.sessions.hibernateSession({ sessionId });
  expect(await noticed("hibernation_failed", from)).toContain("no room");
  expect([await kept(sessionId), blobFiles().length]).toEqual([[{ generation: 1 }], before]);
  disks!.blobs.clear();
  await putAway(sessionId);
  expect(await kept(sessionId)).toEqual([{ generation: 1 }, { generation: 2 }]);
  expect(await bash(sessionId, "sha256sum < large")).toBe(sum);
  await finish(sessionId);
}, 90_000);

test("a workspace that is full is put away and comes back as it was", async ({ skip }) => {
  if (!disks) skip(noSmallDisks);
  if (app.sandboxGaps.includes("disk space")) skip(app.sandboxGaps);
  const sessionId = await open();
  const sum = await bash(sessionId, "{ head -c 100M /dev/zero > all; echo more > more; } 2> /dev/null; stat -c %s all");
  await putAway(sessionId);
  expect(await bash(sessionId, "stat -c %s all")).toBe(sum);
  expect(await bash(sessionId, "rm all; echo room > more && cat more")).toContain("room");
  await finish(sessionId);
}, 90_000);

test("no room to bring a session back to: it says so, stays put away, and comes back whole when there is room", async ({ skip }) => {
  if (!disks) skip(noSmallDisks);
  const sessionId = await open();
  const sum = await bash(sessionId, "head -c 14M /dev/urandom > large; sha256sum < large");
  await putAway(sessionId);
  // Its old files give back their room first.
  const box = () => database.db.selectFrom("session").select("box").where("id", "=", sessionId).executeTakeFirst();
  await expect.poll(box, { timeout: 10_000 }).toEqual({ box: null });
  disks!.sandboxes.fill(8 * mebibyte);
  const from = watcher!.events.length;
  await person.sessions.resumeSession({ sessionId });
  await noticed("resume_failed", from);
  expect(await detailOf(sessionId)).toBe(SessionDetail.DORMANT);
  expect(await kept(sessionId)).toHaveLength(1);
  disks!.sandboxes.clear();
  expect(await bash(sessionId, "sha256sum < large")).toBe(sum);
  await finish(sessionId);
}, 120_000);

test("Postgres cannot write: work is refused as unavailable, what was acknowledged stays, and with room all goes on", async ({ skip }) => {
  if (!disks) skip(noSmallDisks);
  const sessionId = await open();
  await bash(sessionId, "echo precious > kept");
  disks!.postgres.fill();
  const told: number[] = [];
  let refused: ConnectError | undefined;
  for (let count = 0; count < 400 && !refused; count += 1) {
    await person.channel.sendPrompt({ sessionId, text: `[[text ${"x".repeat(2_000)}]]`, requestId: `p${count}` }).then(
      ({ seq }) => told.push(seq),
      (error: unknown) => {
        refused = ConnectError.from(error);
      },
    );
  }
  expect([refused?.code, refused?.rawMessage]).toEqual([Code.Unavailable, expect.any(String)]);
  disks!.postgres.clear();
  await repeated(() => person.channel.sendPrompt({ sessionId, text: "[[text room]]", requestId: "after" }));
  const results = () => ofKind(watcher!.events, "result").length;
  await watcher!.until(() => results() === told.length + 2, 60_000);
  const seen = new Set(watcher!.events.filter(({ payload }) => payload?.kind.case === "user").map(({ seq }) => seq));
  expect(told.filter((seq) => !seen.has(seq))).toEqual([]);
  await putAway(sessionId);
  expect(await bash(sessionId, "cat kept")).toContain("precious");
  await finish(sessionId);
}, 120_000);
