/** Streams of somebody who has left through another server, of which nothing was heard: each ends all the same, and soon. */
import { join } from "node:path";
import { sql } from "kysely";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { App } from "../../server/app.ts";
import { createListener } from "../../server/db/listen.ts";
import { reasonOf } from "../../server/errors.ts";
import { createDepartures } from "../../server/identity/departures.ts";
import { readLocalIssuer } from "../../server/identity/local-issuer.ts";
import { newUuid } from "../../server/ids.ts";
import { createLog } from "../../server/log.ts";
import { closeAccount, insertUser, listDeparted } from "../../server/registration/store.ts";
import { createInstallation, type Installation, neighbourOf, startApp } from "../support/carrel.ts";
import { clientsWith, signUp } from "../support/person.ts";
import { silentLog } from "../support/postgres-server.ts";

let installation: Installation;
let app: App;
/** Another server on the same database. */
let other: App;

beforeAll(async () => {
  installation = await createInstallation({ CARREL_STANDBY_SANDBOXES: "0" });
  app = await startApp(installation);
  other = await startApp(neighbourOf(installation, "other"));
});
afterAll(async () => {
  await other?.close();
  await app?.close();
  await installation?.remove();
});

/** As a server does it that dies behind the commit: nobody hears a bell. */
async function leaveUnheard(email: string): Promise<void> {
  const { db } = installation.database;
  const { issuer, subject } = await db
    .selectFrom("app_user")
    .select(["issuer", "subject"])
    .where("email", "=", email)
    .executeTakeFirstOrThrow();
  await closeAccount(db, { issuer: issuer!, subject: subject! }, async () => undefined);
}

test("streams of all sessions end on every server within ten seconds, though no bell rang; those of others go on", {
  timeout: 30_000,
}, async () => {
  const leaver = "leaver@example.com";
  const issuer = await readLocalIssuer(join(installation.directory, "other"));
  const thereAs = async (email: string) => clientsWith(other.url, await issuer.issueToken({ email, ttlMs: 600_000, operator: false }));
  const here = await signUp(installation, app.url, leaver);
  const there = await thereAs(leaver);
  await signUp(installation, app.url, "neighbour@example.com");
  const neighbour = await thereAs("neighbour@example.com");
  const streams = [];
  const over = new AbortController();
  for (const { channel } of [here, there, neighbour]) {
    const stream = channel.watchSessions({}, { signal: over.signal })[Symbol.asyncIterator]();
    expect((await stream.next()).value?.item.case).toBe("synced");
    streams.push(stream);
  }
  const [mine, elsewhere, theirs] = streams.map((stream) => stream.next());
  await leaveUnheard(leaver);
  const left = performance.now();
  for (const stream of [mine, elsewhere]) expect(reasonOf(await stream!.catch((error: unknown) => error))).toBe(ErrorReason.NOT_REGISTERED);
  expect(performance.now() - left).toBeLessThan(10_000);
  expect((await theirs!).value?.item.case).toBe("keepAlive");
  over.abort();
});

test("who left while the bells could not be heard is looked for when they can be again", async () => {
  const { connection, db } = installation.database;
  const identity = { issuer: "test", subject: newUuid() };
  const userId = newUuid();
  await insertUser(db, { userId, ...identity, email: undefined }, async () => undefined);
  const forgotten: string[] = [];
  const listener = createListener({ connection, log: silentLog() });
  const departures = await createDepartures({
    db,
    listener,
    log: createLog("silent"),
    forget: (id) => void forgotten.push(id),
    findDeparted: (ids) => listDeparted(db, ids),
    lookMs: 3_600_000,
  });
  const streams = new AbortController();
  const ended = departures.until(userId, streams.signal);
  await closeAccount(db, identity, async () => undefined);
  const over = new Promise((resolve) => ended.addEventListener("abort", resolve));
  await sql`select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and query = 'listen "carrel_departures"'`.execute(db);
  await over;
  expect([reasonOf(ended.reason), forgotten]).toEqual([ErrorReason.NOT_REGISTERED, [userId]]);
  streams.abort();
  await departures.close();
  await listener.close();
});
