/** Sessions whose sandbox cannot be started: they are parked, say why, lose nothing, and go on when somebody asks for them. */
import { chmodSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { EndReason, SessionDetail, SessionStatus, StartPhase, UserState } from "../../gen/carrel/v1/session_pb.ts";
import { type App, createApp } from "../../server/app.ts";
import { readConfig } from "../../server/config.ts";
import { createLog } from "../../server/log.ts";
import { createInstallation, type Installation } from "../support/carrel.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { destroySandboxes, leftovers, processOf } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

const claude = readConfig({}).claudePath;

let installation: Installation;
let app: App;
let person: Person;
let watcher: Watcher | undefined;

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, CARREL_STANDBY_SANDBOXES: "0", CARREL_STEP_TRIES: "3" });
  installation.environment["CARREL_CLAUDE_PATH"] = join(installation.directory, "claude");
  agentIs(claude);
  app = await start();
  person = await signUp(installation, app.url, "parked@example.com");
});
afterEach(async () => {
  agentIs(claude);
  await watcher?.stop();
});
afterAll(async () => {
  await app?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

/** Parks whoever has failed three times, however fast. */
function start(): Promise<App> {
  return createApp({ ...readConfig(installation.environment), parkAfterMs: 0 }, createLog("warn"));
}

/** What every sandbox started from now on is given as its agent. */
function agentIs(path: string): void {
  symlinkSync(path, join(installation.directory, "next"));
  renameSync(join(installation.directory, "next"), join(installation.directory, "claude"));
}

/** The agent's program is gone, as in the middle of an upgrade. */
function breakStarts(): void {
  agentIs(join(installation.directory, "nothing"));
}

async function open(initialPrompt = ""): Promise<string> {
  const sessionId = await openSession(person, { initialPrompt });
  watcher = watch(person, sessionId);
  return sessionId;
}

const shown = async (sessionId: string) => (await person.sessions.getSession({ sessionId })).session!;
const stored = (sessionId: string) =>
  installation.database.db.selectFrom("session").selectAll().where("id", "=", sessionId).executeTakeFirstOrThrow();

/** Waits until a session is parked, and answers how it is shown then. */
async function parked(sessionId: string, from = 0) {
  await watcher!.untilKind("system", ({ subtype }) => subtype === "parked", 20_000, from);
  return shown(sessionId);
}

/** What the shell of a turn said, which a prompt begins. */
async function bash(sessionId: string, command: string): Promise<string> {
  const { seq } = await person.channel.sendPrompt({ sessionId, text: `[[tool Bash ${JSON.stringify({ command })}]]` });
  await watcher!.until(({ turn, payload }) => turn === seq && payload?.kind.case === "result", 30_000);
  const results = watcher!.events.filter(({ turn }) => turn === seq);
  return JSON.stringify(ofKind(results, "toolResult").map(({ content }) => content));
}

async function terminate(sessionId: string): Promise<void> {
  await person.sessions.terminateSession({ sessionId });
  await watcher!.ended();
  await checkLog(installation.database.db, person, sessionId);
  await expect
    .poll(() => leftovers(installation))
    .toEqual({ records: [], workspaces: [], boxes: [], processes: [], cgroups: [], mounts: [] });
}

test("one that never started is parked with a reason, stays parked when the server is started again, and answers its prompts once it can", async () => {
  breakStarts();
  const sessionId = await open("[[text first]]");
  const session = await parked(sessionId);
  expect(session).toMatchObject({
    status: SessionStatus.STARTING,
    userState: UserState.WAITING,
    detail: SessionDetail.BLOCKED,
    needsAttention: true,
    queuedPrompts: 1,
    startPhases: [],
  });
  const when = /under (ses_\w+) at (\S+)\./.exec(session.errorMessage);
  expect(session.errorMessage).toContain("The session is parked: its sandbox could not be started, 3 times in a row.");
  expect([when?.[1], Date.now() - Date.parse(when?.[2] ?? "")]).toEqual([sessionId, expect.closeTo(0, -5)]);
  expect(session.errorMessage).not.toContain(installation.directory);
  const notice = ofKind(watcher!.events, "system").find(({ subtype }) => subtype === "parked");
  expect([notice?.message.includes(sessionId), notice?.message.includes(installation.directory)]).toEqual([true, false]);

  await app.close();
  // Would not start without the program.
  agentIs(claude);
  const starting = start();
  breakStarts();
  app = await starting;
  person = await signUp(installation, app.url, "parked@example.com");
  const before = await stored(sessionId);
  // Another one is parked meanwhile: the new server has looked around.
  const other = await openSession(person);
  const othersWatcher = watch(person, other);
  await othersWatcher.untilKind("system", ({ subtype }) => subtype === "parked");
  await othersWatcher.stop();
  expect(await stored(sessionId)).toEqual(before);
  await person.sessions.terminateSession({ sessionId: other });

  agentIs(claude);
  await watcher!.stop();
  watcher = watch(person, sessionId);
  await person.channel.sendPrompt({ sessionId, text: "[[text second]]" });
  await watcher.until(() => ofKind(watcher!.events, "result").length === 2, 30_000);
  expect(ofKind(watcher.events, "assistant").map(({ content }) => content.value)).toEqual(["first", "second"]);
  const { needsAttention, errorMessage, detail } = await shown(sessionId);
  expect({ needsAttention, errorMessage, detail }).toEqual({ needsAttention: false, errorMessage: "", detail: SessionDetail.IDLE });
  expect(await stored(sessionId)).toMatchObject({ failures: 0, retry_at: null, parked_at: null });
  await terminate(sessionId);
});

test("one is ended while it is parked and its cause is still there", async () => {
  breakStarts();
  const sessionId = await open();
  await parked(sessionId);
  await terminate(sessionId);
  const session = await shown(sessionId);
  expect(session).toMatchObject({ status: SessionStatus.ENDED, endReason: EndReason.USER_REQUESTED, needsAttention: false });
  expect(await person.sessions.deleteSessionRecord({ sessionId })).toMatchObject({ deleted: true });
});

test("who leaves while a session is parked and its cause is still there takes it along", async () => {
  const leaver = await signUp(installation, app.url, "leaver@example.com");
  breakStarts();
  const sessionId = await openSession(leaver);
  watcher = watch(leaver, sessionId);
  await watcher.untilKind("system", ({ subtype }) => subtype === "parked");
  await watcher.stop();
  await leaver.registration.deregister({});
  const rows = () => installation.database.db.selectFrom("session").select("id").where("id", "=", sessionId).execute();
  await expect.poll(rows, { timeout: 10_000 }).toEqual([]);
});

test("one whose start fails and then works is not parked, and nothing is held against it", async () => {
  breakStarts();
  const sessionId = await open("[[text hello]]");
  await expect.poll(async () => (await stored(sessionId)).failures).toBe(1);
  agentIs(claude);
  await watcher!.untilKind("result");
  await expect.poll(async () => (await stored(sessionId)).retry_at).toBeNull();
  expect(await stored(sessionId)).toMatchObject({ failures: 0, restarts: 0, parked_at: null });
  // What failed once and is well by itself is no part of a row either.
  const failedOnce = { failures: 2, failing_since: new Date(0), retry_at: new Date(0) };
  await installation.database.db.updateTable("session").set(failedOnce).where("id", "=", sessionId).execute();
  await expect.poll(async () => (await stored(sessionId)).failures).toBe(0);
  expect(ofKind(watcher!.events, "system")).toEqual([]);
  await terminate(sessionId);
});

test("one whose runner is lost when no sandbox can be started keeps its files and its conversation, and resumes by hand", async () => {
  const sessionId = await open();
  await bash(sessionId, "echo kept > file");
  breakStarts();
  process.kill(await processOf(installation, sessionId, "runner"), "SIGKILL");
  const session = await parked(sessionId);
  expect(session).toMatchObject({ status: SessionStatus.RUNNING, detail: SessionDetail.BLOCKED, needsAttention: true });
  // Still broken: parked once more, with all its tries.
  const seen = watcher!.events.length;
  await person.sessions.resumeSession({ sessionId });
  await parked(sessionId, seen);
  expect(await stored(sessionId)).toMatchObject({ failures: 3, restarts: 1 });
  agentIs(claude);
  const again = watcher!.events.length;
  await person.sessions.resumeSession({ sessionId });
  await watcher!.untilKind("sessionStatus", ({ detail }) => detail === SessionDetail.IDLE, 20_000, again);
  expect(await bash(sessionId, "cat file")).toContain("kept");
  await terminate(sessionId);
});

test("one that sleeps keeps its snapshot when it cannot be brought back, and a prompt brings it back once it can", async () => {
  const sessionId = await open();
  await bash(sessionId, "echo kept > file");
  // Parked for something that is mended: whoever wants it put away is heard.
  const parkedOnce = { failures: 3, failing_since: new Date(), parked_at: new Date() };
  await installation.database.db.updateTable("session").set(parkedOnce).where("id", "=", sessionId).execute();
  await person.sessions.hibernateSession({ sessionId });
  expect(await stored(sessionId)).toMatchObject({ failures: 0, failing_since: null, parked_at: null });
  await watcher!.untilKind("sessionStatus", ({ detail }) => detail === SessionDetail.DORMANT);
  breakStarts();
  await person.channel.sendPrompt({ sessionId, text: "[[text while broken]]" });
  expect(await parked(sessionId)).toMatchObject({ detail: SessionDetail.BLOCKED, needsAttention: true, queuedPrompts: 1 });
  agentIs(claude);
  expect(await bash(sessionId, "cat file")).toContain("kept");
  expect(ofKind(watcher!.events, "assistant").map(({ content }) => content.value)).toContain("while broken");
  const { startPhases, needsAttention } = await shown(sessionId);
  expect(startPhases.map(({ phase }) => phase)).toEqual([StartPhase.SANDBOX, StartPhase.RUNNER, StartPhase.RESTORE, StartPhase.AGENT]);
  expect(needsAttention).toBe(false);
  await terminate(sessionId);
});

test("a start that goes well shows its phases in order, and no more time than it took", async () => {
  const begun = performance.now();
  const sessionId = await open("[[text hello]]");
  await watcher!.untilKind("result");
  const took = performance.now() - begun;
  const { startPhases, errorMessage } = await shown(sessionId);
  expect(startPhases.map(({ phase }) => phase)).toEqual([StartPhase.SANDBOX, StartPhase.RUNNER, StartPhase.AGENT]);
  const total = startPhases.reduce((sum, { durationMs }) => sum + durationMs, 0);
  expect([total > 0 && total <= took, errorMessage]).toEqual([true, ""]);
  await terminate(sessionId);
});

test("an agent that leaves before it is ready is named as what failed, with what it said last and without a secret", async () => {
  const script = join(installation.directory, "dying");
  writeFileSync(script, "#!/bin/sh\nenv >&2\necho the licence has expired, see /srv/secret/place >&2\nexit 3\n");
  chmodSync(script, 0o755);
  agentIs(script);
  const sessionId = await open("one");
  for (const text of ["two", "three"]) await person.channel.sendPrompt({ sessionId, text });
  await watcher!.ended(30_000);
  const { errorMessage, endReason, startPhases } = await shown(sessionId);
  expect([endReason, startPhases.map(({ phase }) => phase)]).toEqual([EndReason.FAILED, [StartPhase.SANDBOX, StartPhase.RUNNER]]);
  expect(errorMessage).toContain("(phase of its start: agent)");
  expect(errorMessage.trimEnd().endsWith("the licence has expired, see [path]")).toBe(true);
  expect(errorMessage).toContain("[secret]");
  expect(errorMessage).not.toMatch(/sk-ant|cat_|clt_/);
  expect(errorMessage.length).toBeLessThanOrEqual(2_000);
});
