import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { McpTransport } from "../../gen/carrel/v1/mcp_server_pb.ts";
import { SessionDetail, SessionStatus } from "../../gen/carrel/v1/session_pb.ts";
import { reasonOf } from "../../sdk/node.ts";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

let installation: Installation;
let app: App;
let person: Person;
const watchers: Watcher[] = [];

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, CARREL_LIMIT_CONCURRENT_SESSIONS: "6", CARREL_STANDBY_SANDBOXES: "0" });
  app = await startApp(installation);
  person = await signUp(installation, app.url, "forker@example.com");
});
afterEach(async () => {
  for (const watcher of watchers.splice(0)) await watcher.stop();
});
afterAll(async () => {
  await app?.close();
  await installation?.remove();
});

function follow(sessionId: string): Watcher {
  const watcher = watch(person, sessionId);
  watchers.push(watcher);
  return watcher;
}

/** A session that was told a word and has a file with it. */
async function openTelling(
  word: string,
  options: Parameters<typeof openSession>[1] = {},
): Promise<{ sessionId: string; watcher: Watcher }> {
  const sessionId = await openSession(person, options);
  const watcher = follow(sessionId);
  await say(sessionId, watcher, `remember-${word} [[tool Bash {"command":"echo ${word} >> said; echo written"}]]`);
  return { sessionId, watcher };
}

async function say(sessionId: string, watcher: Watcher, text: string): Promise<string> {
  const from = watcher.events.length;
  await person.channel.sendPrompt({ sessionId, text });
  await watcher.untilKind("result", () => true, 30_000, from);
  const events = watcher.events.slice(from);
  return JSON.stringify([ofKind(events, "toolResult"), ofKind(events, "assistant")]);
}

async function putAway(sessionId: string): Promise<void> {
  await person.sessions.hibernateSession({ sessionId });
  await expect
    .poll(async () => (await person.sessions.getSession({ sessionId })).session!.detail, { timeout: 20_000 })
    .toBe(SessionDetail.DORMANT);
}

async function refusal(call: Promise<unknown>): Promise<ErrorReason | undefined> {
  return call.then(
    () => undefined,
    (error: unknown) => reasonOf(error),
  );
}

test("a fork of a dormant session knows what was said, has the files, and shares nothing with its source", async () => {
  const { sessionId, watcher } = await openTelling("apricot");
  await putAway(sessionId);
  const before = await person.sessions.getSession({ sessionId });
  const preflight = await person.sessions.preflightFork({ sessionId });
  expect(preflight).toMatchObject({ isForkable: true, historyAvailable: true, sourceStatus: SessionStatus.RUNNING, missingMcps: [] });

  const { session } = await person.sessions.forkSession({ sessionId, name: "the other", initialPrompt: "[[text Before: {{earlier}}]]" });
  expect(session).toMatchObject({ name: "the other", forkedFromSessionId: sessionId, forkedAtSeq: preflight.forkableSeqs.at(-1) });
  const fork = follow(session!.id);
  await fork.untilKind("result", () => true, 30_000);
  expect(JSON.stringify(ofKind(fork.events, "assistant"))).toContain("remember-apricot");
  // What may run without asking is the fork's own affair, and its profile asks about this.
  await person.channel.sendPrompt({ sessionId: session!.id, text: '[[tool Bash {"command":"echo fork >> said; cat said"}]]' });
  const { toolUseId } = await fork.untilKind("toolApprovalRequest", () => true, 30_000);
  await person.channel.answerApproval({ sessionId: session!.id, toolUseId, approved: true });
  await fork.untilKind("toolResult", ({ content }) => JSON.stringify(content).includes("apricot\\nfork"), 30_000);

  expect(await person.sessions.getSession({ sessionId })).toEqual(before);
  expect(await say(sessionId, watcher, '[[tool Bash {"command":"cat said"}]]')).not.toContain("fork");
  for (const one of [sessionId, session!.id]) {
    await person.sessions.terminateSession({ sessionId: one });
    await (one === sessionId ? watcher : fork).ended();
    await checkLog(installation.database.db, person, one);
  }
}, 90_000);

test("an ended session can be forked as it was at its end", async () => {
  const { sessionId, watcher } = await openTelling("plum");
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
  const { session } = await person.sessions.forkSession({ sessionId, initialPrompt: "[[text Before: {{earlier}}]]" });
  const fork = follow(session!.id);
  await fork.untilKind("result", () => true, 30_000);
  expect(JSON.stringify(ofKind(fork.events, "assistant"))).toContain("remember-plum");
  expect(session!.name).toBe(`Fork of ${sessionId}`);
  await person.sessions.terminateSession({ sessionId: session!.id });
  await fork.ended();
}, 60_000);

test("a session can be forked at each point that is kept, and at no other", async () => {
  const { sessionId, watcher } = await openTelling("first");
  await putAway(sessionId);
  await say(sessionId, watcher, '[[tool Bash {"command":"echo second >> said; echo written"}]]');
  await putAway(sessionId);
  const { forkableSeqs } = await person.sessions.preflightFork({ sessionId });
  expect(forkableSeqs).toHaveLength(2);
  expect(await refusal(person.sessions.forkSession({ sessionId, forkAtSeq: forkableSeqs[0]! + 1 }))).toBe(ErrorReason.SNAPSHOT_GONE);
  const { session } = await person.sessions.forkSession({ sessionId, forkAtSeq: forkableSeqs[0]! });
  const fork = follow(session!.id);
  await person.channel.sendPrompt({ sessionId: session!.id, text: '[[tool Read {"file_path":"/workspace/said"}]]' });
  const { content } = await fork.untilKind("toolResult", () => true, 30_000);
  expect(JSON.stringify(content)).toContain("first");
  expect(JSON.stringify(content)).not.toContain("second");
  for (const one of [sessionId, session!.id]) await person.sessions.terminateSession({ sessionId: one });
  await fork.ended();
}, 90_000);

test("what cannot be forked is refused with its reason: at work, of somebody else, without what it needs, over the cap", async () => {
  const { sessionId, watcher } = await openTelling("pear");
  expect(await refusal(person.sessions.forkSession({ sessionId }))).toBe(ErrorReason.NOT_FORKABLE);
  expect((await person.sessions.preflightFork({ sessionId })).isForkable).toBe(false);
  const stranger = await signUp(installation, app.url, "stranger@example.com");
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
  expect(await refusal(stranger.sessions.forkSession({ sessionId }))).toBe(ErrorReason.NOT_FOUND);
  expect(await refusal(stranger.sessions.preflightFork({ sessionId }))).toBe(ErrorReason.NOT_FOUND);
  expect(await refusal(person.sessions.forkSession({ sessionId, profileId: "prf_none" }))).toBe(ErrorReason.NOT_FOUND);

  const unsaid = await openSession(person);
  await person.sessions.terminateSession({ sessionId: unsaid });
  await follow(unsaid).ended();
  expect(await refusal(person.sessions.forkSession({ sessionId: unsaid }))).toBe(ErrorReason.SNAPSHOT_GONE);

  const others: string[] = [];
  for (let count = 0; count < 6; count += 1) others.push(await openSession(person));
  expect(await refusal(person.sessions.forkSession({ sessionId }))).toBe(ErrorReason.FORK_LIMIT);
  for (const one of others) await person.sessions.terminateSession({ sessionId: one });
  for (const one of others) await follow(one).ended();
}, 90_000);

test("a fork that would lack a tool server needs that to be said; repeated by its request id it is made once", async () => {
  const { session: source } = await person.sessions.createSession({
    mcpServers: { weather: { type: McpTransport.STDIO, command: "true" } },
    initialPrompt: "[[text Hello.]]",
  });
  const sessionId = source!.id;
  const watcher = follow(sessionId);
  await watcher.untilKind("result", () => true, 30_000);
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
  expect(await person.sessions.preflightFork({ sessionId })).toMatchObject({ sourceMcpServers: ["weather"], missingMcps: ["weather"] });
  expect(await refusal(person.sessions.forkSession({ sessionId }))).toBe(ErrorReason.MISSING_TOOL_SERVERS);
  const request = { sessionId, acknowledgeMissingTools: ["weather"], requestId: "fork-once" };
  const made = await Promise.all([1, 2, 3].map(() => person.sessions.forkSession(request)));
  expect(new Set(made.map(({ session }) => session!.id)).size).toBe(1);
  await person.sessions.terminateSession({ sessionId: made[0]!.session!.id });
  await follow(made[0]!.session!.id).ended();
  const archives = await installation.database.db.selectFrom("snapshot").select("archive").execute();
  expect(new Set(archives.map(({ archive }) => archive)).size).toBe(archives.length);
}, 60_000);
