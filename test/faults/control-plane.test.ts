import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { EndReason } from "../../gen/carrel/v1/session_pb.ts";
import { createInstallation, type Installation } from "../support/carrel.ts";
import { type Keeper, keepServer } from "../support/keeper.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { repeated } from "../support/repeated.ts";
import { destroySandboxes, isRunning, processOf } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

let installation: Installation;
let keeper: Keeper;
let person: Person;
let watcher: Watcher | undefined;

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, CARREL_DRAIN_MS: "2000" });
  keeper = await keepServer(installation);
  person = await signUp(installation, keeper.url, "faults@example.com");
});
afterEach(() => watcher?.stop());
afterAll(async () => {
  await keeper?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

async function terminate(sessionId: string): Promise<void> {
  await repeated(() => person.sessions.terminateSession({ sessionId }));
}

/** Ends the session and checks what it leaves: the whole log, seen by the watcher exactly as it is stored. */
async function finish(sessionId: string, prompts?: string[]) {
  await terminate(sessionId);
  await watcher!.ended();
  const report = await checkLog(installation.database.db, person, sessionId, prompts);
  expect(watcher!.events).toEqual(report.events);
  return report;
}

for (const signal of ["SIGKILL", "SIGTERM"] as const) {
  describe(`${signal} of the control plane`, () => {
    test("in the middle of a streaming turn with a tool running: the sandbox lives on and the turn completes", async () => {
      const sessionId = await openSession(person);
      watcher = watch(person, sessionId, { includeDeltas: true });
      await person.channel.sendPrompt({
        sessionId,
        requestId: `${sessionId}-1`,
        text: '[[text Start.]] [[tool Bash {"command":"sleep 1.5; echo tool-went-on"}]] [[slow 60 tokens 20ms]] [[text after]]',
      });
      await watcher.untilKind("toolUse");
      const runner = await processOf(installation, sessionId, "runner");
      await sleep(200);
      await keeper.restart(signal);
      const result = await watcher.untilKind("result");
      expect(result.success).toBe(true);
      expect(isRunning(runner)).toBe(true);
      expect(await processOf(installation, sessionId, "runner")).toBe(runner);
      expect(JSON.stringify(ofKind(watcher.events, "toolResult")[0]?.content)).toContain("tool-went-on");
      const { epochs } = await finish(sessionId, [`${sessionId}-1`]);
      expect(epochs).toEqual([0, 1]);
      expect(watcher.breaks.length).toBeGreaterThan(0);
    });

    test("while the model streams: the agent asks again and the answer is in the log once", async () => {
      const sessionId = await openSession(person);
      watcher = watch(person, sessionId, { includeDeltas: true });
      await person.channel.sendPrompt({ sessionId, requestId: `${sessionId}-1`, text: "[[slow 80 tokens 20ms]]" });
      const started = Date.now();
      while (watcher.deltas.length < 5 && Date.now() - started < 20_000) await sleep(20);
      await keeper.restart(signal);
      expect((await watcher.untilKind("result")).success).toBe(true);
      const answers = ofKind(watcher.events, "assistant").filter(({ content }) => content.case === "text");
      expect(answers.map(({ content }) => content.value?.trim().split(" ").length)).toEqual([80]);
      await finish(sessionId, [`${sessionId}-1`]);
    });

    test("while an approval waits: it can be answered afterwards, and the agent obeys", async () => {
      const sessionId = await openSession(person, { asking: true });
      watcher = watch(person, sessionId);
      await person.channel.sendPrompt({
        sessionId,
        requestId: `${sessionId}-1`,
        text: '[[tool Bash {"command":"echo approved-later > f; cat f"}]]',
      });
      const { toolUseId } = await watcher.untilKind("toolApprovalRequest");
      await keeper.restart(signal);
      expect((await repeated(() => person.channel.listPending({ sessionId }))).approvals.map((one) => one.toolUseId)).toEqual([toolUseId]);
      await repeated(() => person.channel.answerApproval({ sessionId, toolUseId, approved: true }));
      await watcher.untilKind("result");
      expect(JSON.stringify(ofKind(watcher.events, "toolResult")[0]?.content)).toContain("approved-later");
      await finish(sessionId, [`${sessionId}-1`]);
    });

    test("between prompts: the next one continues the same conversation", async () => {
      const sessionId = await openSession(person);
      watcher = watch(person, sessionId);
      await person.channel.sendPrompt({ sessionId, requestId: `${sessionId}-1`, text: "[[text one]] remember-apricot" });
      await watcher.untilKind("result");
      await keeper.restart(signal);
      const from = watcher.events.length;
      await repeated(() => person.channel.sendPrompt({ sessionId, requestId: `${sessionId}-2`, text: "[[text Before: {{earlier}}]]" }));
      await watcher.untilKind("result", () => true, 20_000, from);
      expect(JSON.stringify(ofKind(watcher.events, "assistant").at(-1)?.content)).toContain("remember-apricot");
      await finish(sessionId, [`${sessionId}-1`, `${sessionId}-2`]);
    });

    test("right after the answer to SendPrompt: the prompt runs once", async () => {
      const sessionId = await openSession(person);
      watcher = watch(person, sessionId);
      await watcher.untilKind("sessionStatus", ({ detail }) => detail === 4);
      await person.channel.sendPrompt({ sessionId, requestId: `${sessionId}-1`, text: "[[text kept]]" });
      await keeper.restart(signal);
      await watcher.untilKind("result");
      expect((await finish(sessionId, [`${sessionId}-1`])).turns).toBe(1);
    });

    test("during the creation of a session: it starts all the same", async () => {
      const made = person.sessions.createSession({ initialPrompt: "[[text born]]", requestId: `create-${signal}` }).catch(() => undefined);
      await sleep(signal === "SIGKILL" ? 15 : 40);
      await keeper.restart(signal);
      await made;
      const { session } = await repeated(() =>
        person.sessions.createSession({ initialPrompt: "[[text born]]", requestId: `create-${signal}` }),
      );
      const sessionId = session!.id;
      watcher = watch(person, sessionId);
      await watcher.untilKind("result", () => true, 30_000);
      await finish(sessionId);
    });

    test("during a termination: it is carried out by the next process", async () => {
      const sessionId = await openSession(person);
      watcher = watch(person, sessionId);
      await watcher.untilKind("sessionStatus", ({ detail }) => detail === 4);
      const runner = await processOf(installation, sessionId, "runner");
      await person.sessions.terminateSession({ sessionId });
      await keeper.restart(signal);
      await watcher.ended();
      expect(isRunning(runner)).toBe(false);
      expect(ofKind(watcher.events, "sessionEnd")[0]?.reason).toBe(EndReason.USER_REQUESTED);
      await finish(sessionId);
    });
  });
}

test("SIGTERM ends the server in order: exit code 0, within the drain time, streams told that it is unavailable", async () => {
  const sessionId = await openSession(person);
  watcher = watch(person, sessionId);
  await watcher.untilKind("sessionStatus", ({ detail }) => detail === 4);
  const started = performance.now();
  expect(await keeper.end("SIGTERM")).toBe(0);
  expect(performance.now() - started).toBeLessThan(8_000);
  await keeper.start();
  await finish(sessionId, []);
});

test("killed at ten random moments with prompts in flight that the client repeats: each prompt is in the log once and is run once", async () => {
  const sessionId = await openSession(person);
  watcher = watch(person, sessionId);
  const prompts = Array.from({ length: 12 }, (_, index) => `r${index}`);
  let killing = true;
  const killer = (async () => {
    for (let kills = 0; kills < 10; kills += 1) {
      await sleep(50 + Math.random() * 400);
      await keeper.restart("SIGKILL");
    }
    killing = false;
  })();
  for (const requestId of prompts) {
    const text = `[[text ${requestId}]] [[tool Bash {"command":"echo ${requestId} >> ran; wc -l < ran"}]]`;
    const answers = await Promise.all([1, 2].map(() => repeated(() => person.channel.sendPrompt({ sessionId, requestId, text }))));
    expect(answers[0]!.seq).toBe(answers[1]!.seq);
    if (killing) await sleep(Math.random() * 400);
  }
  await killer;
  const deadline = Date.now() + 40_000;
  while (ofKind(watcher.events, "result").length < prompts.length && Date.now() < deadline) await sleep(100);
  expect(ofKind(watcher.events, "result")).toHaveLength(prompts.length);
  const { turns } = await finish(sessionId, prompts);
  expect(turns).toBe(prompts.length);
  const asked = ofKind(watcher.events, "user").map(({ requestId }) => requestId);
  expect(asked.toSorted()).toEqual(prompts.toSorted());
  // Every command ran once: the last one counts the lines that all of them wrote.
  expect(JSON.stringify(ofKind(watcher.events, "toolResult").at(-1)?.content)).toContain(`"${prompts.length}"`);
}, 120_000);
