import { join } from "node:path";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";
import WebSocket from "ws";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import type { App } from "../../server/app.ts";
import { reasonName, reasonOf } from "../../server/errors.ts";
import { readLocalIssuer } from "../../server/identity/local-issuer.ts";
import { lockSession } from "../../server/journal/store.ts";
import { filesNaming, tablesNaming, userIdOf } from "../support/account.ts";
import { createInstallation, type Installation, neighbourOf, plantedKey, startApp } from "../support/carrel.ts";
import { clientsWith, openSession, type Person, signUp } from "../support/person.ts";
import { leftovers, processesOf } from "../support/sandboxes.ts";
import { watch } from "../support/watcher.ts";

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

async function reasonOfCall(call: Promise<unknown>): Promise<string> {
  return call.then(
    () => "accepted",
    (error: unknown) => reasonName(reasonOf(error) ?? ErrorReason.UNSPECIFIED),
  );
}

async function rest(method: string, path: string, token: string) {
  const answer = await fetch(`${app.url}${path}`, { method, headers: { authorization: `Bearer ${token}` } });
  return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
}

const detailOf = async ({ sessions }: Person, sessionId: string) => (await sessions.getSession({ sessionId })).session!.detail;

/** Sessions in every kind of rest and work, with something said in each. */
async function populate(person: Person) {
  const dormant = await openSession(person, { initialPrompt: "[[text asleep]]" });
  await expect.poll(() => detailOf(person, dormant), { timeout: 20_000 }).toBe(SessionDetail.IDLE);
  await person.sessions.hibernateSession({ sessionId: dormant });
  const ended = await openSession(person, { initialPrompt: "[[text over]]" });
  await expect.poll(() => detailOf(person, ended), { timeout: 20_000 }).toBe(SessionDetail.IDLE);
  await person.sessions.terminateSession({ sessionId: ended });
  const asking = await openSession(person, { asking: true, initialPrompt: '[[tool Bash {"command":"touch asked"}]]' });
  const working = await openSession(person, { initialPrompt: `[[tool Bash {"command":"echo secret > kept; perl -e 'sleep 600'"}]]` });
  const starting = await openSession(person);
  await expect.poll(() => detailOf(person, dormant), { timeout: 20_000 }).toBe(SessionDetail.DORMANT);
  await expect.poll(() => detailOf(person, asking), { timeout: 20_000 }).toBe(SessionDetail.BLOCKED);
  await expect.poll(() => detailOf(person, working), { timeout: 20_000 }).toBe(SessionDetail.WORKING);
  return { dormant, ended, asking, working, starting };
}

test("who leaves takes everything along: sessions in every state, files, snapshots, rows and the key", { timeout: 120_000 }, async () => {
  const leaver = await signUp(installation, app.url, "leaver@example.com");
  const neighbour = await signUp(installation, app.url, "neighbour@example.com");
  const kept = await openSession(neighbour, { initialPrompt: "[[text stays]]" });
  const sessions = await populate(leaver);
  const userId = await userIdOf(installation, "leaver@example.com");
  const issuer = await readLocalIssuer(join(installation.directory, "other"));
  const there = clientsWith(other.url, await issuer.issueToken({ email: "leaver@example.com", ttlMs: 600_000, operator: false }));
  const watchers = [leaver, there].map((person) => watch(person, sessions.asking));
  const socket = new WebSocket(`${app.url.replace("http", "ws")}/v1/sessions/${sessions.working}/ws?token=${leaver.token}`);
  const closed = new Promise<number>((resolve) => socket.on("close", resolve));
  for (const watcher of watchers) await watcher.untilKind("toolApprovalRequest");
  const before = await tablesNaming(installation, [userId, ...Object.values(sessions)]);
  expect(before).toEqual(
    expect.arrayContaining(["app_user", "user_key", "credential", "session", "event", "pause", "snapshot", "profile"]),
  );
  const processes = (await processesOf(installation, sessions.working)).length;
  expect(processes).toBeGreaterThan(2);
  expect(filesNaming(installation, [sessions.dormant])).not.toEqual([]);
  const dump = await installation.database.db
    .selectFrom("user_key")
    .innerJoin("credential", "credential.user_id", "user_key.user_id")
    .select(["wrapped", "envelope"])
    .where("user_key.user_id", "=", userId)
    .executeTakeFirstOrThrow();

  expect(await rest("DELETE", "/v1/register", leaver.token)).toEqual({ status: 200, body: { deregistered: true } });
  const started = performance.now();

  // Refused at once, on every server and surface; the way back in is open all the time.
  expect(await reasonOfCall(leaver.sessions.listSessions({}))).toBe("NOT_REGISTERED");
  expect(await reasonOfCall(there.sessions.getSession({ sessionId: sessions.working }))).toBe("NOT_REGISTERED");
  expect(await rest("GET", `/v1/sessions/${sessions.ended}`, leaver.token)).toMatchObject({
    status: 403,
    body: { error: "not_registered" },
  });
  expect(await closed).toBe(4003);
  for (const watcher of watchers) await expect(watcher.until(() => false, 5_000)).rejects.toMatchObject({ code: Code.PermissionDenied });

  await expect.poll(() => tablesNaming(installation, [userId, ...Object.values(sessions)]), { timeout: 10_000 }).toEqual([]);
  expect(performance.now() - started).toBeLessThan(10_000);
  expect(filesNaming(installation, Object.values(sessions))).toEqual([]);
  expect(leftovers(installation).workspaces).toHaveLength(1);
  expect(leftovers(installation).records).toHaveLength(1);
  expect(dump.wrapped.some((byte) => byte !== 0)).toBe(true);

  expect(await rest("DELETE", "/v1/register", leaver.token)).toEqual({ status: 200, body: { deregistered: true } });
  await expect.poll(() => detailOf(neighbour, kept), { timeout: 10_000 }).toBe(SessionDetail.IDLE);
  expect((await neighbour.credentials.getCredentialStatus({})).hasCredentials).toBe(true);
  await neighbour.sessions.terminateSession({ sessionId: kept });
});

test("who comes back is somebody else, also while the removal is still under way, and what was copied before does not open", {
  timeout: 60_000,
}, async () => {
  const email = "returner@example.com";
  const first = await signUp(installation, app.url, email);
  const sessionId = await openSession(first, { initialPrompt: "[[text remembered]]" });
  await expect.poll(() => detailOf(first, sessionId), { timeout: 20_000 }).toBe(SessionDetail.IDLE);
  const userId = await userIdOf(installation, email);
  const { db } = installation.database;
  const copies = {
    credential: await db.selectFrom("credential").selectAll().where("user_id", "=", userId).executeTakeFirstOrThrow(),
    events: await db.selectFrom("event").selectAll().where("session_id", "=", sessionId).orderBy("seq").execute(),
  };
  // A server that is away keeps its sessions of the person, and with them the closed account.
  const { host } = await db.selectFrom("session").select("host").where("id", "=", sessionId).executeTakeFirstOrThrow();
  await db.updateTable("session").set({ host: "away" }).where("id", "=", sessionId).execute();

  await first.registration.deregister({});
  const second = clientsWith(app.url, first.token);
  await second.registration.register({});
  const newId = await userIdOf(installation, email);
  expect(newId).not.toBe(userId);
  expect((await second.sessions.listSessions({})).sessions).toEqual([]);
  expect(await second.credentials.getCredentialStatus({})).toMatchObject({ hasCredentials: false });
  expect(await reasonOfCall(second.sessions.getSession({ sessionId }))).toBe("NOT_FOUND");

  // Of the old account only the tombstone of its key is left, and the sealed rows that its server has to remove.
  const key = await db.selectFrom("user_key").selectAll().where("user_id", "=", userId).executeTakeFirstOrThrow();
  expect(key).toMatchObject({ state: "destroyed", wrapped: Buffer.alloc(key.wrapped.length) });
  const account = await db.selectFrom("app_user").selectAll().where("id", "=", userId).executeTakeFirstOrThrow();
  expect(account).toMatchObject({ issuer: null, subject: null, email: null });

  // No change is possible any more that could want the session otherwise again.
  expect(await db.transaction().execute((tx) => lockSession(tx, sessionId))).toBeUndefined();

  // Put into the place of what the new account has, the copies are noise.
  await second.credentials.setApiKey({ apiKey: plantedKey });
  const mine = await openSession(second);
  await db.updateTable("credential").set({ envelope: copies.credential.envelope }).where("user_id", "=", newId).execute();
  await db
    .insertInto("event")
    .values(copies.events.map((event) => ({ ...event, session_id: mine, seq: event.seq + 1_000 })))
    .execute();
  expect(await reasonOfCall(second.channel.listEvents({ sessionId: mine, afterSeq: 1_000 }))).toBe("INTERNAL");
  await second.registration.deregister({});

  // Its server is back: the rest goes.
  const row = await db.selectFrom("session").select("desired").where("id", "=", sessionId).executeTakeFirstOrThrow();
  expect(row).toEqual({ desired: "erase" });
  await db.updateTable("session").set({ host }).where("id", "=", sessionId).execute();
  await expect.poll(() => tablesNaming(installation, [userId, newId]), { timeout: 15_000 }).toEqual([]);
});

test("somebody without an account, or without a good token, is answered as the contract says", async () => {
  const stranger = await installation.tokenFor("stranger@example.com");
  expect(await rest("DELETE", "/v1/register", stranger)).toEqual({ status: 200, body: { deregistered: true } });
  expect(await rest("DELETE", "/v1/register", "nonsense")).toMatchObject({ status: 401, body: { error: "unauthenticated" } });
  expect(await rest("PUT", "/v1/register", stranger)).toMatchObject({
    status: 405,
    body: { details: { allowed: expect.stringMatching(/DELETE/) } },
  });
});
