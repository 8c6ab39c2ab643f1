import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { EndReason } from "../../gen/carrel/v1/session_pb.ts";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { destroySandboxes, firstProcesses, isRunning, processesOf, processOf, recordOf, signalFamily } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

const staleMs = 3_000;
const idle = 4;

let installation: Installation;
let app: App;
let person: Person;
let watcher: Watcher;

beforeAll(async () => {
  installation = await createInstallation({
    ...unlimited,
    CARREL_HEARTBEAT_MS: "400",
    CARREL_HEARTBEAT_STALE_MS: String(staleMs),
    CARREL_STARTUP_TIMEOUT_MS: "5000",
    CARREL_STANDBY_SANDBOXES: "0",
  });
  app = await startApp(installation);
  person = await signUp(installation, app.url, "runner@example.com");
});
afterEach(() => watcher?.stop());
afterAll(async () => {
  await app?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

async function open(options: { asking?: boolean } = {}): Promise<string> {
  const sessionId = await openSession(person, options);
  watcher = watch(person, sessionId, { includeDeltas: true });
  return sessionId;
}

async function prompt(sessionId: string, text: string): Promise<void> {
  await person.channel.sendPrompt({ sessionId, text });
}

/** Sends a prompt and waits for the end of its turn. */
async function turn(sessionId: string, text: string) {
  const from = watcher.events.length;
  await prompt(sessionId, text);
  return watcher.untilKind("result", () => true, 25_000, from);
}

async function kill(sessionId: string, program: "runner" | "claude", signal: NodeJS.Signals = "SIGKILL"): Promise<number> {
  const pid = await processOf(installation, sessionId, program);
  process.kill(pid, signal);
  return pid;
}

async function finish(sessionId: string): Promise<void> {
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
  const { events } = await checkLog(installation.database.db, person, sessionId);
  expect(watcher.events).toEqual(events);
}

function lastText(): string {
  return JSON.stringify(ofKind(watcher.events, "assistant").at(-1)?.content.value);
}

const notices = () => ofKind(watcher.events, "system").map(({ subtype }) => subtype);

test("a runner killed between prompts: a new one takes up the same conversation", async () => {
  const sessionId = await open();
  await turn(sessionId, "[[text one]] remember-apricot");
  const killed = await kill(sessionId, "runner");
  await watcher.untilKind("sessionStatus", ({ detail }) => detail === 3);
  const result = await turn(sessionId, "[[text Before: {{earlier}}]]");
  expect([result.success, lastText()]).toEqual([true, expect.stringContaining("remember-apricot")]);
  expect(await processOf(installation, sessionId, "runner")).not.toBe(killed);
  expect(notices()).toEqual([]);
  await finish(sessionId);
});

test("a runner killed while a tool runs: the turn is said to be interrupted and not done again, the queue goes on, the conversation too", async () => {
  const sessionId = await open();
  await turn(sessionId, "[[text one]] remember-apricot");
  await prompt(sessionId, '[[tool Bash {"command":"echo x >> ran; tail -f /dev/null"}]]');
  await watcher.untilKind("toolUse");
  await prompt(sessionId, '[[tool Bash {"command":"cat ran | wc -l"}]] [[text Before: {{earlier}}]]');
  await sleep(700);
  await kill(sessionId, "runner");
  await watcher.untilKind("result", ({ subtype }) => subtype === "lost");
  expect(notices()).toEqual(["turn_interrupted"]);
  await watcher.untilKind("result", ({ success, subtype }) => success && subtype === "success", 20_000, watcher.events.length - 1);
  expect(JSON.stringify(ofKind(watcher.events, "toolResult").at(-1)?.content)).toContain('"1"');
  expect(lastText()).toContain("remember-apricot");
  await finish(sessionId);
});

test("a runner killed before anything of the turn had happened: the prompt is repeated, and answered once", async () => {
  const sessionId = await open();
  await turn(sessionId, "[[text one]]");
  const asked = installation.model.requests().length;
  await prompt(sessionId, "[[pause 1500]] [[text only-once]]");
  // At once when the model is asked: a heartbeat later the runner would have said that it has the prompt.
  while (installation.model.requests().length === asked) await sleep(5);
  await kill(sessionId, "runner");
  await watcher.until(
    (event) =>
      event.payload?.kind.case === "result" && event.turn !== watcher.events[0]?.turn && ofKind(watcher.events, "result").length === 2,
  );
  expect(notices()).toEqual([]);
  // A second run of the prompt would answer within this time.
  await sleep(2_500);
  expect(ofKind(watcher.events, "result").map(({ success }) => success)).toEqual([true, true]);
  expect(ofKind(watcher.events, "assistant").filter(({ content }) => content.value?.includes("only-once"))).toHaveLength(1);
  expect(ofKind(watcher.events, "turnStart")).toHaveLength(2);
  await finish(sessionId);
});

test("an approval that waits when its runner is killed is asked again by the next one, and then obeyed", async () => {
  const sessionId = await open({ asking: true });
  const call = '[[tool Bash {"command":"echo once-more >> f; cat f"}]]';
  // The model is told that its call did not run, and makes it again.
  await prompt(sessionId, `${call} ${call}`);
  const { toolUseId } = await watcher.untilKind("toolApprovalRequest");
  const seen = watcher.events.length;
  // It writes its call down a moment after it asked. Killed before, it does not know of this one, and makes one call more.
  await expect.poll(() => recordOf(installation, sessionId), { interval: 5 }).toContain(toolUseId);
  await kill(sessionId, "runner");
  const again = await watcher.untilKind("toolApprovalRequest", () => true, 30_000, seen);
  expect(again.toolUseId).not.toBe(toolUseId);
  expect(ofKind(watcher.events, "toolApprovalResolved").map((one) => [one.toolUseId, one.outcome])).toEqual([[toolUseId, 4]]);
  await expect(person.channel.answerApproval({ sessionId, toolUseId, approved: true })).rejects.toThrow("answered already");
  await person.channel.answerApproval({ sessionId, toolUseId: again.toolUseId, approved: true });
  expect((await watcher.untilKind("result")).success).toBe(true);
  expect(JSON.stringify(ofKind(watcher.events, "toolResult").at(-1)?.content)).toContain('"once-more');
  expect((await turn(sessionId, "[[text onwards]]")).success).toBe(true);
  await finish(sessionId);
});

test("what a sub-agent asks is withdrawn with its turn when the runner is killed: its other work is lost with it", async () => {
  const sessionId = await open({ asking: true });
  await prompt(sessionId, '[[subagent do this: [[tool Bash {"command":"echo no > f"}]] ]]');
  const agent = await watcher.untilKind("toolApprovalRequest", ({ toolName }) => toolName === "Agent");
  await person.channel.answerApproval({ sessionId, toolUseId: agent.toolUseId, approved: true });
  const { toolUseId, parentToolUseId } = await watcher.untilKind("toolApprovalRequest", ({ toolName }) => toolName === "Bash");
  expect(parentToolUseId).toBe(agent.toolUseId);
  await kill(sessionId, "runner");
  expect((await watcher.untilKind("result")).subtype).toBe("lost");
  expect(ofKind(watcher.events, "toolApprovalResolved").find((one) => one.toolUseId === toolUseId)?.outcome).toBe(4);
  await finish(sessionId);
});

test("the agent killed in the middle of a turn: the turn fails, the next prompt starts it again in the same conversation", async () => {
  const sessionId = await open();
  await turn(sessionId, "[[text one]] remember-apricot");
  await prompt(sessionId, '[[tool Bash {"command":"tail -f /dev/null"}]]');
  await watcher.untilKind("toolUse");
  await sleep(500);
  const runner = await processOf(installation, sessionId, "runner");
  await kill(sessionId, "claude");
  expect((await watcher.untilKind("result", ({ success }) => !success)).subtype).toBe("agent_crashed");
  expect(ofKind(watcher.events, "sessionError").map(({ error }) => error)).toEqual(["agent_crashed"]);
  expect((await turn(sessionId, "[[text Before: {{earlier}}]]")).success).toBe(true);
  expect(lastText()).toContain("remember-apricot");
  expect(await processOf(installation, sessionId, "runner")).toBe(runner);
  await finish(sessionId);
});

test("the agent killed while it is idle, or while an approval waits, is there again for the next prompt", async () => {
  const sessionId = await open({ asking: true });
  await turn(sessionId, "[[text one]]");
  const runner = await processOf(installation, sessionId, "runner");
  await kill(sessionId, "claude");
  await sleep(300);
  await prompt(sessionId, '[[tool Bash {"command":"echo no > f"}]]');
  await watcher.untilKind("toolApprovalRequest");
  await kill(sessionId, "claude");
  expect((await watcher.untilKind("result", ({ success }) => !success)).subtype).toBe("agent_crashed");
  expect(ofKind(watcher.events, "toolApprovalResolved").map(({ outcome }) => outcome)).toEqual([3]);
  expect((await turn(sessionId, "[[text onwards]]")).success).toBe(true);
  expect(await processOf(installation, sessionId, "runner")).toBe(runner);
  await finish(sessionId);
});

test("a runner that is stopped longer than its lease is replaced, and the stopped one never comes back", async () => {
  const sessionId = await open();
  await turn(sessionId, "[[text one]] remember-apricot");
  const family = await processesOf(installation, sessionId);
  const stopped = await kill(sessionId, "runner", "SIGSTOP");
  const started = performance.now();
  await watcher.untilKind("sessionStatus", ({ detail }) => detail === 3);
  expect(performance.now() - started).toBeGreaterThan(staleMs - 500);
  expect((await turn(sessionId, "[[text Before: {{earlier}}]]")).success).toBe(true);
  expect(lastText()).toContain("remember-apricot");
  // Dead, all of them, before the next one was allowed to start: there is nobody left to continue.
  expect(family.filter(({ pid }) => isRunning(pid))).toEqual([]);
  expect(() => process.kill(stopped, "SIGCONT")).toThrow("ESRCH");
  await finish(sessionId);
});

test("a runner that is stopped for less than its lease goes on as if nothing had been", async () => {
  const sessionId = await open();
  await turn(sessionId, "[[text one]]");
  const stopped = await kill(sessionId, "runner", "SIGSTOP");
  await prompt(sessionId, "[[text two]]");
  await sleep(staleMs / 2);
  process.kill(stopped, "SIGCONT");
  await watcher.until(() => ofKind(watcher.events, "result").length === 2);
  expect(await processOf(installation, sessionId, "runner")).toBe(stopped);
  await finish(sessionId);
});

test("a session whose runner is lost again and again ends with heartbeat_stale after three restarts", async () => {
  const sessionId = await open();
  for (let kills = 0; kills < 4; kills += 1) {
    await watcher.untilKind(
      "sessionStatus",
      ({ detail }) => detail === idle,
      20_000,
      watcher.events.length > 0 && kills > 0 ? watcher.events.length - 1 : 0,
    );
    await kill(sessionId, "runner");
    const seen = watcher.events.length;
    await watcher.until(() => true, 20_000, seen);
  }
  await watcher.ended();
  expect(ofKind(watcher.events, "sessionEnd")[0]?.reason).toBe(EndReason.HEARTBEAT_STALE);
  const { session } = await person.sessions.getSession({ sessionId });
  expect(session?.errorMessage).toContain("could not be brought back");
  await checkLog(installation.database.db, person, sessionId);
});

test("a session whose runner never attaches ends with startup_timeout, and its prompt is not lost from the log", async () => {
  const before = new Set(firstProcesses(installation));
  const sessionId = await openSession(person, { initialPrompt: "[[text never]]" });
  watcher = watch(person, sessionId);
  const deadline = Date.now() + 5_000;
  let root: number | undefined;
  while (root === undefined && Date.now() < deadline) {
    await sleep(1);
    root = firstProcesses(installation).find((pid) => !before.has(pid));
  }
  // Again and again, because what runs still makes children.
  for (let times = 0; times < 5; times += 1) await signalFamily(root!, "SIGSTOP");
  await watcher.ended(15_000);
  expect(ofKind(watcher.events, "sessionEnd")[0]?.reason).toBe(EndReason.STARTUP_TIMEOUT);
  const { session } = await person.sessions.getSession({ sessionId });
  expect(session?.errorMessage).toMatch(/^the agent did not start in time \(phase of its start: (sandbox|runner)\)/);
  expect(isRunning(root!)).toBe(false);
  await checkLog(installation.database.db, person, sessionId);
});
