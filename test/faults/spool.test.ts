/** What a runner had reported when it was killed and nobody was there to take it: in the log once, and the turn is settled by it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { sql } from "kysely";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { createInstallation, type Installation } from "../support/carrel.ts";
import { type Keeper, keepServer } from "../support/keeper.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { destroySandboxes, placesOf, processOf } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

let installation: Installation;
let keeper: Keeper;
let person: Person;
let watcher: Watcher;

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, CARREL_STANDBY_SANDBOXES: "0" });
  keeper = await keepServer(installation);
  person = await signUp(installation, keeper.url, "spool@example.com");
});
afterEach(() => watcher?.stop());
afterAll(async () => {
  await keeper?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

async function open(): Promise<string> {
  const sessionId = await openSession(person);
  watcher = watch(person, sessionId);
  return sessionId;
}

const sessionRow = (sessionId: string) =>
  installation.database.db.selectFrom("session").selectAll().where("id", "=", sessionId).executeTakeFirstOrThrow();

/** Waits until the runner has put this text aside. */
async function untilSpooled(sessionId: string, text: string): Promise<void> {
  const spool = join(placesOf(installation).run, (await sessionRow(sessionId)).box!, "spool/events");
  for (let tries = 0; tries < 400; tries += 1) {
    if (readFileSync(spool).includes(text)) return;
    await sleep(25);
  }
  throw new Error(`the spool never held ${text}`);
}

/** Keeps everybody from writing to a session: the agent goes on, and what its runner says stays unacknowledged. */
async function hold(sessionId: string): Promise<() => Promise<void>> {
  const [held, released] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const over = installation.database.db.transaction().execute(async (tx) => {
    await tx.selectFrom("session").select("id").where("id", "=", sessionId).forUpdate().execute();
    held.resolve();
    await released.promise;
  });
  await held.promise;
  return () => {
    released.resolve();
    return over;
  };
}

/** Kills the control plane, and what of it still waits in the database: a statement that waits for a lock is carried out even when nobody is left to hear of it. */
async function killServer(): Promise<void> {
  await keeper.end("SIGKILL");
  await sql`select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock'`.execute(installation.database.db);
}

/** Lets the agent answer a prompt while nobody can write it down, then kills the control plane and the runner. */
async function loseAnswer(sessionId: string, text: string): Promise<void> {
  const asked = installation.model.requests().length;
  await person.channel.sendPrompt({ sessionId, text: `[[pause 1000]] [[text ${text}]]` });
  while (installation.model.requests().length === asked) await sleep(5);
  const release = await hold(sessionId);
  await untilSpooled(sessionId, "success");
  const runner = await processOf(installation, sessionId, "runner");
  await killServer();
  process.kill(runner, "SIGKILL");
  await release();
  expect((await sessionRow(sessionId)).turn_acted).toBe(false);
}

const answersWith = (text: string) => ofKind(watcher.events, "assistant").filter(({ content }) => content.value?.includes(text));

async function finish(sessionId: string): Promise<void> {
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
  const { events } = await checkLog(installation.database.db, person, sessionId);
  expect(watcher.events).toEqual(events);
}

test("an answer that only the runner knew of is in the log once, its turn has ended, and the prompt is not run again", async () => {
  const sessionId = await open();
  await loseAnswer(sessionId, "only-once");
  const asked = installation.model.requests().length;
  await keeper.start();
  expect((await watcher.untilKind("result")).success).toBe(true);
  expect(answersWith("only-once")).toHaveLength(1);
  expect(ofKind(watcher.events, "system").map(({ subtype }) => subtype)).toEqual([]);
  // A second run of the prompt would have asked by then.
  await watcher.untilKind("sessionStatus", ({ detail }) => detail === 4, 20_000, watcher.events.length - 1);
  await sleep(500);
  expect(installation.model.requests().length).toBe(asked);
  await person.channel.sendPrompt({ sessionId, text: "[[text Before: {{earlier}}]]" });
  await watcher.until(() => ofKind(watcher.events, "result").length === 2);
  expect(answersWith("Before").at(-1)?.content.value).toContain("only-once");
  await finish(sessionId);
});

test("a prompt in the queue follows the turn whose end only the runner knew of", async () => {
  const sessionId = await open();
  const asked = installation.model.requests().length;
  await person.channel.sendPrompt({ sessionId, text: "[[pause 1500]] [[text first]]" });
  await person.channel.sendPrompt({ sessionId, text: "[[text second]]" });
  while (installation.model.requests().length === asked) await sleep(5);
  const release = await hold(sessionId);
  await untilSpooled(sessionId, "success");
  const runner = await processOf(installation, sessionId, "runner");
  await killServer();
  process.kill(runner, "SIGKILL");
  await release();
  await keeper.start();
  await watcher.until(() => ofKind(watcher.events, "result").length === 2);
  expect(ofKind(watcher.events, "result").map(({ success }) => success)).toEqual([true, true]);
  expect([answersWith("first").length, answersWith("second").length]).toEqual([1, 1]);
  expect(installation.model.requests().length).toBe(asked + 2);
  await finish(sessionId);
});

test("a tool that ended while the control plane was away: its result is in the log once, and it is not run again", async () => {
  const sessionId = await open();
  await person.channel.sendPrompt({
    sessionId,
    text: '[[tool Bash {"command":"echo x >> ran; sleep 1; echo spooled-result"}]] [[text never]]',
  });
  await watcher.untilKind("toolUse");
  const runner = await processOf(installation, sessionId, "runner");
  await sleep(300);
  await killServer();
  await untilSpooled(sessionId, "spooled-result");
  process.kill(runner, "SIGKILL");
  await keeper.start();
  await watcher.untilKind("result", ({ subtype }) => subtype === "lost");
  expect(ofKind(watcher.events, "toolResult").filter(({ content }) => JSON.stringify(content).includes("spooled-result"))).toHaveLength(1);
  await person.channel.sendPrompt({ sessionId, text: '[[tool Bash {"command":"wc -l < ran"}]]' });
  await watcher.untilKind("result", ({ success }) => success);
  expect(JSON.stringify(ofKind(watcher.events, "toolResult").at(-1)?.content)).toContain('"1"');
  await finish(sessionId);
});

test("a control plane that was stopped meanwhile takes what its dead runner had reported, once", async () => {
  const sessionId = await open();
  await person.channel.sendPrompt({
    sessionId,
    text: '[[tool Bash {"command":"echo x >> ran; sleep 1; echo spooled-result"}]] [[text never]]',
  });
  await watcher.untilKind("toolUse");
  const runner = await processOf(installation, sessionId, "runner");
  await sleep(300);
  process.kill(keeper.pid, "SIGSTOP");
  await untilSpooled(sessionId, "spooled-result");
  process.kill(runner, "SIGKILL");
  process.kill(keeper.pid, "SIGCONT");
  await watcher.untilKind("result", ({ subtype }) => subtype === "lost");
  expect(ofKind(watcher.events, "toolResult").filter(({ content }) => JSON.stringify(content).includes("spooled-result"))).toHaveLength(1);
  await finish(sessionId);
});

test("a session that is ended by force has in its log what its runner had reported, and its end after it", async () => {
  const sessionId = await open();
  await loseAnswer(sessionId, "last-words");
  const wish = { desired: "end", end_reason: "user_requested" } as const;
  await installation.database.db.updateTable("session").set(wish).where("id", "=", sessionId).execute();
  await keeper.start();
  await watcher.ended();
  expect(answersWith("last-words")).toHaveLength(1);
  expect(ofKind(watcher.events, "result").map(({ success }) => success)).toEqual([true]);
  // Nothing of its turn was lost; only its files could not be kept, because nobody was left to pack them.
  expect(ofKind(watcher.events, "system").map(({ subtype }) => subtype)).toEqual(["last_snapshot_failed"]);
  await checkLog(installation.database.db, person, sessionId);
});
