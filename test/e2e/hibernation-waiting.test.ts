// A session in which only people can help a turn on is put away like an idle one; what was asked stays asked.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { ApprovalScope, PendingOutcome } from "../../gen/carrel/v1/approval_pb.ts";
import { SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { destroySandboxes, leftovers } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

let installation: Installation;
let app: App;
let person: Person;
let watcher: Watcher;

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, CARREL_IDLE_HIBERNATE_MS: "1500", CARREL_STANDBY_SANDBOXES: "0" });
  app = await startApp(installation);
  person = await signUp(installation, app.url, "asked@example.com");
});
afterEach(() => watcher?.stop());
afterAll(async () => {
  await app?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

const call = '[[tool Bash {"command":"echo ran >> f; wc -l < f"}]]';
/** The model is told that its call did not run, and makes it again. */
const twice = `remember-apricot ${call} ${call} [[text Before: {{earlier}}]]`;

async function open(text: string): Promise<string> {
  const sessionId = await openSession(person, { asking: true });
  watcher = watch(person, sessionId);
  await person.channel.sendPrompt({ sessionId, text });
  return sessionId;
}

const untilDormant = (from = 0) => watcher.untilKind("sessionStatus", ({ detail }) => detail === SessionDetail.DORMANT, 20_000, from);
const notices = () => ofKind(watcher.events, "system").map(({ subtype }) => subtype);
const asked = () => ofKind(watcher.events, "toolApprovalRequest").map(({ toolUseId }) => toolUseId);
const outcomes = () => ofKind(watcher.events, "toolApprovalResolved").map(({ outcome }) => outcome);
const pendingOf = async (sessionId: string) =>
  (await person.channel.listPending({ sessionId })).approvals.map(({ toolUseId }) => toolUseId);

async function finish(sessionId: string): Promise<void> {
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
  await checkLog(installation.database.db, person, sessionId);
}

test("an approval that waits is answered while the session is dormant: it wakes, and the call runs once without another question", async () => {
  const sessionId = await open(twice);
  const { toolUseId } = await watcher.untilKind("toolApprovalRequest");
  await untilDormant();
  await expect.poll(() => leftovers(installation).processes).toEqual([]);
  const { session } = await person.sessions.getSession({ sessionId });
  expect([session!.needsAttention, await pendingOf(sessionId)]).toEqual([true, [toolUseId]]);

  const answer = { sessionId, toolUseId, approved: true };
  const { seq } = await person.channel.answerApproval(answer);
  expect((await person.channel.answerApproval(answer)).seq).toBe(seq);
  expect((await watcher.untilKind("result", () => true, 30_000)).success).toBe(true);
  expect([asked(), outcomes()]).toEqual([[toolUseId], [PendingOutcome.APPROVED]]);
  expect(notices()).toEqual(["resuming_sdk_session", "asking_again", "answer_applied"]);
  expect(JSON.stringify(ofKind(watcher.events, "toolResult").at(-1)!.content)).toContain('"1"');
  await finish(sessionId);
}, 60_000);

test("a refusal reaches the agent in the same way", async () => {
  const sessionId = await open(`${call} ${call} [[text Well then.]]`);
  const { toolUseId } = await watcher.untilKind("toolApprovalRequest");
  await untilDormant();
  await person.channel.answerApproval({ sessionId, toolUseId, approved: false, message: "not on a Friday" });
  await watcher.untilKind("result", () => true, 30_000);
  expect(JSON.stringify(ofKind(watcher.events, "toolResult").at(-1)!)).toContain("not on a Friday");
  expect(asked()).toEqual([toolUseId]);
  await finish(sessionId);
}, 60_000);

test("an approval for the whole session, given while it is dormant, holds afterwards", async () => {
  const sessionId = await open(`${call} ${call} ${call}`);
  const { toolUseId } = await watcher.untilKind("toolApprovalRequest");
  await untilDormant();
  const forSession = { approvalScope: ApprovalScope.SESSION, approvalPattern: "Bash" };
  await person.channel.answerApproval({ sessionId, toolUseId, approved: true, ...forSession });
  await watcher.untilKind("result", () => true, 30_000);
  expect(asked()).toEqual([toolUseId]);
  expect(JSON.stringify(ofKind(watcher.events, "toolResult").at(-1)!.content)).toContain('"2"');
  await finish(sessionId);
}, 60_000);

test("a question is answered while the session is dormant", async () => {
  const question = "[[ask Which way? | Left | Right]]";
  const sessionId = await open(`${question} ${question} [[text Thanks.]]`);
  const { questionId, questions } = await watcher.untilKind("askUserQuestion");
  await untilDormant();
  await person.channel.answerQuestion({ sessionId, questionId, answers: { [questions[0]!.question]: "Left" } });
  await watcher.untilKind("result", () => true, 30_000);
  expect(ofKind(watcher.events, "askUserQuestion")).toHaveLength(1);
  expect(JSON.stringify(ofKind(watcher.events, "toolResult").at(-1)!)).toContain("Left");
  await finish(sessionId);
}, 60_000);

test("a prompt waits behind what was asked; brought back by hand, the agent asks again, and only the new question counts", async () => {
  const sessionId = await open(twice);
  const { toolUseId } = await watcher.untilKind("toolApprovalRequest");
  await untilDormant();
  const { queued } = await person.channel.sendPrompt({ sessionId, text: "[[text And then.]]" });
  expect(queued).toBe(true);
  const from = watcher.events.length;
  await person.sessions.resumeSession({ sessionId });
  const again = await watcher.untilKind("toolApprovalRequest", () => true, 30_000, from);
  expect([again.toolUseId === toolUseId, outcomes()]).toEqual([false, [PendingOutcome.SUPERSEDED]]);
  await expect(person.channel.answerApproval({ sessionId, toolUseId, approved: true })).rejects.toThrow("answered already");
  // What the agent before left behind keeps nobody awake.
  await untilDormant(from);
  await person.channel.answerApproval({ sessionId, toolUseId: again.toolUseId, approved: true });
  await watcher.until(() => ofKind(watcher.events, "result").length === 2, 30_000);
  expect(JSON.stringify(ofKind(watcher.events, "assistant").at(-1))).toContain("And then.");
  await finish(sessionId);
}, 60_000);

test("interrupted while it is dormant, the turn ends, and the session sleeps on", async () => {
  const sessionId = await open(twice);
  await watcher.untilKind("toolApprovalRequest");
  await untilDormant();
  expect((await person.channel.interrupt({ sessionId })).interrupted).toBe(true);
  expect((await watcher.untilKind("result")).subtype).toBe("interrupted");
  expect([outcomes(), await pendingOf(sessionId)]).toEqual([[PendingOutcome.INTERRUPTED], []]);
  const { session } = await person.sessions.getSession({ sessionId });
  expect([session!.detail, session!.needsAttention]).toEqual([SessionDetail.DORMANT, false]);
  await person.channel.sendPrompt({ sessionId, text: "[[text Before: {{earlier}}]]" });
  await watcher.until(() => ofKind(watcher.events, "result").length === 2, 30_000);
  expect(JSON.stringify(ofKind(watcher.events, "assistant").at(-1))).toContain("remember-apricot");
  await finish(sessionId);
}, 60_000);

const rowOf = (sessionId: string) =>
  installation.database.db.selectFrom("session").select(["state", "box"]).where("id", "=", sessionId).executeTakeFirstOrThrow();
const isWritten = () => readdirSync(join(installation.directory, "data/blobs/@unfinished")).length > 0;

/** In their order; what is past counts as reached. */
const moments: [name: string, isReached: (sessionId: string) => Promise<boolean>][] = [
  ["it is asked for", async () => true],
  ["the runner is told", async (sessionId) => (await rowOf(sessionId)).state !== "running"],
  ["its archive is written", async (sessionId) => isWritten() || (await rowOf(sessionId)).state === "dormant"],
  ["its snapshot counts", async (sessionId) => (await rowOf(sessionId)).state === "dormant"],
  ["its sandbox is gone", async (sessionId) => (await rowOf(sessionId)).box === null],
];

test.each(moments)(
  "answered during putting away when %s, a call runs once for each answer",
  async (_name, isReached) => {
    const sessionId = await open(twice);
    const { toolUseId } = await watcher.untilKind("toolApprovalRequest");
    await person.sessions.hibernateSession({ sessionId });
    await expect.poll(() => isReached(sessionId), { interval: 1, timeout: 20_000 }).toBe(true);
    await person.channel.answerApproval({ sessionId, toolUseId, approved: true });
    // Still awake, it runs the first call and asks about the second.
    const next = await watcher.until(({ payload }) => payload?.kind.case === "result" || asked().length === 2, 30_000);
    if (next.payload?.kind.case !== "result") await person.channel.answerApproval({ sessionId, toolUseId: asked()[1]!, approved: true });
    await watcher.untilKind("result", () => true, 30_000);
    expect(JSON.stringify(ofKind(watcher.events, "toolResult").at(-1)!.content)).toContain(`"${asked().length}"`);
    await finish(sessionId);
  },
  60_000,
);

test("with a tool or a sub-agent at work beside what waits it stays awake, and says so to who asked", async () => {
  const sessionId = await open(`[[subagent do this: ${call} ]]`);
  const agent = await watcher.untilKind("toolApprovalRequest", ({ toolName }) => toolName === "Agent");
  await person.channel.answerApproval({ sessionId, toolUseId: agent.toolUseId, approved: true });
  const { toolUseId } = await watcher.untilKind("toolApprovalRequest", ({ toolName }) => toolName === "Bash");
  await person.sessions.hibernateSession({ sessionId });
  const { message } = await watcher.untilKind("system", ({ subtype }) => subtype === "hibernation_failed");
  expect(message).toContain("stays awake");
  await person.channel.answerApproval({ sessionId, toolUseId, approved: true });
  expect((await watcher.untilKind("result", () => true, 30_000)).success).toBe(true);
  await finish(sessionId);
}, 60_000);
