import { afterAll, beforeAll, expect, test } from "vitest";
import { EndReason, PermissionMode, SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import { createInstallation, type Installation } from "../support/carrel.ts";
import { type Keeper, keepServer } from "../support/keeper.ts";
import { checkLog } from "../support/log-checker.ts";
import { type Person, signUp } from "../support/person.ts";
import { repeated } from "../support/repeated.ts";
import { destroySandboxes } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

const helpers = 4;
/** What every answer of the model costs here: a thousand tokens of output, of the model that the table prices at $25 a million. */
const answerUsd = 0.025;
const answerTokens = 1_000;
const bill = `[[usage {"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":${answerTokens}}]]`;

let installation: Installation;
let keeper: Keeper;
let person: Person;
let watcher: Watcher;

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, CARREL_STANDBY_SANDBOXES: "0", CARREL_DRAIN_MS: "1000" });
  keeper = await keepServer(installation);
  person = await signUp(installation, keeper.url, "budget@example.com");
});
afterAll(async () => {
  await watcher?.stop();
  await keeper?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

/** A prompt whose sub-agents work side by side, each with so many answers of a known price. */
function crowd(rounds: number, words: string): string {
  const steps = Array.from({ length: rounds }, () => `${bill} ${words} [[tool Bash {"command":"true"}]]`).join(" ");
  const one = `subagent ${steps} ${bill} [[text helped]]`;
  return `${bill} [[${one}]] ${Array.from({ length: helpers - 1 }, () => `[[+${one}]]`).join(" ")} ${bill} [[text all done]]`;
}

async function start(initialPrompt: string, maxBudgetUsd?: number): Promise<string> {
  const { session } = await person.sessions.createSession({
    permissionMode: PermissionMode.BYPASS_PERMISSIONS,
    initialPrompt,
    ...(maxBudgetUsd === undefined ? {} : { maxBudgetUsd }),
  });
  watcher = watch(person, session!.id);
  return session!.id;
}

/** What the model was asked by this session, as long as it remembers. */
function asked() {
  const conversation = ofKind(watcher.events, "sdkSessionId")[0]?.id ?? "not yet";
  return installation.model
    .requests()
    .filter(({ body }) => JSON.stringify((body as { metadata?: unknown }).metadata ?? "").includes(conversation));
}

const shown = async (sessionId: string) => (await repeated(() => person.sessions.getSession({ sessionId }))).session!;

/** The session's bill and the sum of its log, which must be one, in answers of the known price. */
async function answersBooked(sessionId: string): Promise<number> {
  await repeated(() => person.sessions.terminateSession({ sessionId }));
  await watcher.ended();
  await checkLog(installation.database.db, person, sessionId);
  const session = await shown(sessionId);
  const deltas = ofKind(watcher.events, "usageDelta");
  const tokens = deltas.reduce((sum, { usage }) => sum + usage!.outputTokens, 0);
  const usd = deltas.reduce((sum, { costUsd }) => sum + costUsd, 0);
  expect(session.usage!.outputTokens).toBe(tokens);
  expect(session.costUsd).toBeCloseTo(usd, 9);
  expect(usd).toBeCloseTo((tokens / answerTokens) * answerUsd, 9);
  return tokens / answerTokens;
}

test("sub-agents side by side do not spend more over the budget than the answers under way", async () => {
  const budgetUsd = 0.2;
  const sessionId = await start(crowd(6, "[[slow 3 tokens 30ms]]"), budgetUsd);
  await watcher.ended(40_000);
  const session = await shown(sessionId);
  expect(session.endReason).toBe(EndReason.COMPLETED);
  expect(ofKind(watcher.events, "system").map(({ subtype }) => subtype)).toContain("budget_exceeded");
  const answers = await answersBooked(sessionId);
  expect(session.costUsd).toBeGreaterThanOrEqual(budgetUsd);
  expect(answers).toBeLessThan(budgetUsd / answerUsd + helpers);
  expect(asked()).toHaveLength(answers);
  await watcher.stop();
}, 60_000);

test("kill -9 of the control plane while answers stream: the bill is the sum of the log, and no answer that came whole is missing", async () => {
  const sessionId = await start(crowd(3, "[[slow 25 tokens 20ms]]"));
  await watcher.until(() => ofKind(watcher.events, "usageDelta").length >= 3);
  const pending = () => asked().filter(({ end }) => end === "pending").length;
  await expect.poll(pending, { timeout: 20_000, interval: 20 }).toBeGreaterThan(1);
  await keeper.restart("SIGKILL");
  expect((await watcher.untilKind("result", () => true, 40_000)).success).toBe(true);
  await expect.poll(async () => (await shown(sessionId)).detail, { timeout: 10_000 }).toBe(SessionDetail.IDLE);
  const answers = await answersBooked(sessionId);
  const whole = asked().filter(({ end }) => end === "complete").length;
  // What was under way when the server died is booked by nobody; everything that ended before or after is, once.
  expect(answers).toBeGreaterThanOrEqual(whole - helpers);
  expect(answers).toBeLessThanOrEqual(whole);
  await watcher.stop();
}, 60_000);
