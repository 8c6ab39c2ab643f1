import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { ApprovalScope } from "../../gen/carrel/v1/approval_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { EndReason, SessionDetail, SessionDetailSchema } from "../../gen/carrel/v1/session_pb.ts";
import { reasonOf } from "../../sdk/node.ts";
import type { App } from "../../server/app.ts";
import { wordOf } from "../../server/words.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { leftovers, processesOf } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

let installation: Installation;
let app: App;
let person: Person;
let watcher: Watcher | undefined;

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, CARREL_STANDBY_SANDBOXES: "0" });
  app = await startApp(installation);
  person = await signUp(installation, app.url, "sleeper@example.com");
});
afterEach(() => watcher?.stop());
afterAll(async () => {
  await app?.close();
  await installation?.remove();
});

async function untilDetail(sessionId: string, detail: SessionDetail): Promise<void> {
  const giveUp = Date.now() + 20_000;
  for (;;) {
    const { session } = await person.sessions.getSession({ sessionId });
    if (session!.detail === detail) return;
    if (Date.now() > giveUp)
      throw new Error(`the session is ${wordOf(SessionDetailSchema, session!.detail)}, not ${wordOf(SessionDetailSchema, detail)}`);
    await sleep(25);
  }
}

/** Sends a prompt and answers what its tools printed and what the agent said. */
async function say(sessionId: string, text: string): Promise<string> {
  const from = watcher!.events.length;
  await person.channel.sendPrompt({ sessionId, text });
  await watcher!.untilKind("result", () => true, 30_000, from);
  const events = watcher!.events.slice(from);
  return JSON.stringify([ofKind(events, "toolResult"), ofKind(events, "assistant")]);
}

const bash = (command: string) => `[[tool Bash ${JSON.stringify({ command })}]]`;

test("a session is put away and comes back with its conversation and its files, bit by bit", async () => {
  const sessionId = await openSession(person);
  watcher = watch(person, sessionId);
  const make = [
    "mkdir -p deep/er empty 'odd name' && echo content > deep/er/file && ln -s deep/er/file link && ln deep/er/file hard",
    "printf '\\0\\1\\2' > bin && chmod 751 bin && touch -d '2001-02-03 04:05:06.789012345' bin && mkfifo pipe && echo x > 'odd name/a b'",
    "git init -q . && git add deep && git -c user.name=a -c user.email=a@b commit -qm one && echo more >> deep/er/file",
    "truncate -s 300M hollow && mkdir -p workspace/.memory && echo kept > workspace/.memory/keep",
    "echo home > ~/kept",
  ].join(" && ");
  const list =
    "find . ~ -mindepth 1 -path ./.memory -prune -o -path ~/.claude\\* -prune -o -printf '%p %y %m %T@ %l %n %s %b\\n' | sort; md5sum bin ~/kept; GIT_OPTIONAL_LOCKS=0 git status -s";
  await say(sessionId, `remember-apricot ${bash(make)}`);
  const before = await say(sessionId, bash(`${list} > /tmp/l; cat /tmp/l`));
  const { session } = await person.sessions.hibernateSession({ sessionId });
  expect([SessionDetail.IDLE, SessionDetail.DORMANT]).toContain(session!.detail);
  await untilDetail(sessionId, SessionDetail.DORMANT);
  await expect.poll(() => leftovers(installation)).toEqual(nothing);

  const after = await say(sessionId, bash(`${list} > /tmp/l; cat /tmp/l`));
  expect(resultOf(after)).toBe(resultOf(before));
  expect(await say(sessionId, "[[text Before: {{earlier}}]]")).toContain("remember-apricot");
  expect(ofKind(watcher.events, "system").map(({ subtype }) => subtype)).toContain("resuming_sdk_session");
}, 60_000);

const nothing = { records: [], workspaces: [], boxes: [], processes: [], cgroups: [], mounts: [] };

async function putAway(sessionId: string): Promise<void> {
  await person.sessions.hibernateSession({ sessionId });
  await untilDetail(sessionId, SessionDetail.DORMANT);
}

/** Opens a session that has said something. */
async function openTalking(options: { asking?: boolean } = {}): Promise<string> {
  const sessionId = await openSession(person, options);
  watcher = watch(person, sessionId);
  await say(sessionId, "[[text Hello.]] remember-apricot");
  return sessionId;
}

const noticesOf = () => ofKind(watcher!.events, "system").map(({ subtype }) => subtype);

test("a prompt while it is put away is answered at once, and nothing is lost or said twice", async () => {
  const sessionId = await openTalking();
  for (const wait of [0, 20, 60, 120, 250, 500]) {
    await person.sessions.hibernateSession({ sessionId });
    await sleep(wait);
    expect(await say(sessionId, `[[text Here after ${wait}.]]`)).toContain(`Here after ${wait}.`);
  }
  expect(await say(sessionId, "[[text Before: {{earlier}}]]")).toContain("remember-apricot");
  await person.sessions.terminateSession({ sessionId });
  await watcher!.ended();
  const { turns } = await checkLog(installation.database.db, person, sessionId);
  expect(turns).toBe(8);
}, 90_000);

const rowOf = (sessionId: string) =>
  installation.database.db.selectFrom("session").selectAll().where("id", "=", sessionId).executeTakeFirstOrThrow();

test("a prompt in the middle of a long packing stops it; the same runner goes on", async () => {
  const sessionId = await openTalking();
  await say(sessionId, bash("head -c 150M /dev/urandom > large; echo made"));
  await person.sessions.hibernateSession({ sessionId });
  await sleep(700);
  expect((await rowOf(sessionId)).state).toBe("hibernating");
  expect(await say(sessionId, "[[text Still here.]]")).toContain("Still here.");
  const { epoch, restarts, snapshot_generation } = await rowOf(sessionId);
  expect({ epoch, restarts, snapshot_generation }).toEqual({ epoch: 1, restarts: 0, snapshot_generation: null });
  await say(sessionId, bash("rm large; echo removed"));
  await putAway(sessionId);
  const left = await installation.database.db.selectFrom("command").selectAll().where("session_id", "=", sessionId).execute();
  expect(left).toEqual([]);
});

test("a lifetime counts running time only, also when a runner is lost after a resume", async () => {
  const sessionId = await openTalking();
  const before = (await rowOf(sessionId)).ends_at!;
  await putAway(sessionId);
  await sleep(1_500);
  expect(await say(sessionId, "[[text Back.]]")).toContain("Back.");
  const resumed = (await rowOf(sessionId)).ends_at!;
  expect(resumed.getTime() - before.getTime()).toBeGreaterThan(1_400);
  for (const { pid } of await processesOf(installation, sessionId)) process.kill(pid, "SIGKILL");
  expect(await say(sessionId, "[[text And again.]]")).toContain("And again.");
  expect((await rowOf(sessionId)).ends_at).toEqual(resumed);
});

test("ResumeSession brings it back without a prompt; a dormant one can be ended", async () => {
  const sessionId = await openTalking();
  await putAway(sessionId);
  await person.sessions.resumeSession({ sessionId });
  await untilDetail(sessionId, SessionDetail.IDLE);
  await putAway(sessionId);
  const { session } = await person.sessions.getSession({ sessionId });
  expect(session!.snapshotAt).toBeDefined();
  await person.sessions.terminateSession({ sessionId });
  await watcher!.ended();
  expect(ofKind(watcher!.events, "sessionEnd")[0]!.reason).toBe(EndReason.USER_REQUESTED);
  await checkLog(installation.database.db, person, sessionId);
});

test("one at work is not put away, one that has ended neither; both refusals say why", async () => {
  const sessionId = await openTalking();
  await person.channel.sendPrompt({ sessionId, text: "[[slow 100 tokens 20ms]]" });
  await expect(person.sessions.hibernateSession({ sessionId })).rejects.toSatisfy((error) => reasonOf(error) === ErrorReason.SESSION_BUSY);
  await person.channel.interrupt({ sessionId });
  await person.sessions.terminateSession({ sessionId });
  await watcher!.ended();
  await expect(person.sessions.hibernateSession({ sessionId })).rejects.toSatisfy((error) => reasonOf(error) === ErrorReason.SESSION_ENDED);
  await expect(person.sessions.resumeSession({ sessionId })).rejects.toSatisfy((error) => reasonOf(error) === ErrorReason.SESSION_ENDED);
});

test("what the agent left running is stopped and named", async () => {
  const sessionId = await openTalking();
  await say(sessionId, bash("nohup sleep 1000 > /dev/null 2>&1 & echo started"));
  await putAway(sessionId);
  const stopped = ofKind(watcher!.events, "system").find(({ subtype }) => subtype === "background_processes_stopped");
  expect(stopped!.message).toContain("sleep");
});

test("an approval for the whole session still holds when it comes back", async () => {
  const sessionId = await openTalking({ asking: true });
  const command = bash("date > stamp; echo dated");
  await person.channel.sendPrompt({ sessionId, text: command });
  const { toolUseId } = await watcher!.untilKind("toolApprovalRequest");
  const kept = { sessionId, toolUseId, approved: true, approvalScope: ApprovalScope.SESSION };
  await person.channel.answerApproval({ ...kept, approvalPattern: "Bash" });
  await watcher!.untilKind("result", () => true, 20_000, watcher!.events.length);
  await putAway(sessionId);
  expect(await say(sessionId, command)).toContain("dated");
  expect(ofKind(watcher!.events, "toolApprovalRequest")).toHaveLength(1);
});

test("a snapshot that was altered is never unpacked: the session says so, stays dormant, and comes back once it is whole", async () => {
  const sessionId = await openTalking();
  await putAway(sessionId);
  const { archive } = await installation.database.db
    .selectFrom("snapshot")
    .selectAll()
    .where("session_id", "=", sessionId)
    .executeTakeFirstOrThrow();
  const path = join(installation.environment["CARREL_DATA_DIR"]!, "blobs/snapshots", `${archive}@`);
  const whole = readFileSync(path);
  const altered = Buffer.from(whole);
  altered[altered.length >> 1]! ^= 1;
  writeFileSync(path, altered);
  await person.channel.sendPrompt({ sessionId, text: "[[text Back.]]" });
  await watcher!.untilKind("system", ({ subtype }) => subtype === "resume_failed", 30_000);
  await untilDetail(sessionId, SessionDetail.DORMANT);
  await expect.poll(async () => (await rowOf(sessionId)).box, { timeout: 10_000 }).toBeNull();
  const { session: parked } = await person.sessions.getSession({ sessionId });
  expect([parked?.needsAttention, parked?.queuedPrompts]).toEqual([true, 1]);
  expect(parked?.errorMessage).toMatch(/^the session could not be brought back: .+\nNothing of it is lost\./s);
  writeFileSync(path, whole);
  await person.sessions.resumeSession({ sessionId });
  await watcher!.untilKind("result", () => true, 30_000, watcher!.events.length);
  expect(JSON.stringify(ofKind(watcher!.events, "assistant").at(-1))).toContain("Back.");
  expect(noticesOf()).toContain("resuming_sdk_session");
  const { session: back } = await person.sessions.getSession({ sessionId });
  expect([back?.needsAttention, back?.errorMessage]).toEqual([false, ""]);
});

function resultOf(said: string): string {
  return JSON.stringify(JSON.parse(said)[0][0].content);
}
