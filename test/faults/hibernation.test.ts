import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import { createInstallation, type Installation } from "../support/carrel.ts";
import { type Keeper, keepServer } from "../support/keeper.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { repeated } from "../support/repeated.ts";
import { destroySandboxes, leftovers, processesOf } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

/** How often something is killed in each test; the long form sets it. */
const kills = Number(process.env["CARREL_TEST_KILLS"] ?? 5);

let installation: Installation;
let keeper: Keeper;
let person: Person;
let watcher: Watcher | undefined;

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, CARREL_STANDBY_SANDBOXES: "0", CARREL_DRAIN_MS: "1000" });
  keeper = await keepServer(installation);
  person = await signUp(installation, keeper.url, "sleeper@example.com");
});
afterEach(() => watcher?.stop());
afterAll(async () => {
  await keeper?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

async function detailOf(sessionId: string): Promise<SessionDetail> {
  return (await repeated(() => person.sessions.getSession({ sessionId }))).session!.detail;
}

/** Counts one up in the workspace and answers what the file holds then. */
async function count(sessionId: string, requestId: string): Promise<string> {
  const text = '[[tool Bash {"command":"echo x >> counted; wc -l < counted"}]]';
  const { seq } = await repeated(() => person.channel.sendPrompt({ sessionId, requestId, text }));
  const result = await watcher!.until(({ turn, payload }) => turn === seq && payload?.kind.case === "result", 40_000);
  const said = watcher!.events.filter(({ turn, seq: number }) => turn === seq && number <= result.seq);
  return JSON.stringify(ofKind(said, "toolResult").at(-1)?.content).match(/"(\d+)"/)?.[1] ?? "nothing";
}

async function finish(sessionId: string, requestIds: string[]): Promise<void> {
  await repeated(() => person.sessions.terminateSession({ sessionId }));
  await watcher!.ended();
  const { turns } = await checkLog(installation.database.db, person, sessionId, requestIds);
  expect(turns).toBe(requestIds.length);
  await expect
    .poll(() => leftovers(installation))
    .toEqual({ records: [], workspaces: [], boxes: [], processes: [], cgroups: [], mounts: [] });
}

test("the control plane killed at random moments of putting away and bringing back: no file, no prompt and no conversation is lost", async () => {
  const sessionId = await openSession(person);
  watcher = watch(person, sessionId);
  const requestIds = [`${sessionId}-0`];
  expect(await count(sessionId, requestIds[0]!)).toBe("1");
  for (let round = 1; round <= kills; round += 1) {
    await repeated(() => person.sessions.hibernateSession({ sessionId }));
    await sleep(Math.random() * 400);
    await keeper.restart("SIGKILL");
    if (round % 2 === 0) await expect.poll(() => detailOf(sessionId), { timeout: 30_000 }).toBe(SessionDetail.DORMANT);
    await repeated(() => person.sessions.resumeSession({ sessionId }));
    await sleep(Math.random() * 600);
    await keeper.restart("SIGKILL");
    requestIds.push(`${sessionId}-${round}`);
    expect(await count(sessionId, requestIds[round]!)).toBe(String(round + 1));
  }
  await finish(sessionId, requestIds);
}, 240_000);

test("everything in the sandbox killed at random moments of putting away and bringing back: the same", async () => {
  const sessionId = await openSession(person);
  watcher = watch(person, sessionId);
  const requestIds = [`${sessionId}-0`];
  expect(await count(sessionId, requestIds[0]!)).toBe("1");
  const killSandbox = async (): Promise<void> => {
    for (const { pid } of await processesOf(installation, sessionId)) {
      try {
        process.kill(pid, "SIGKILL");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
      }
    }
  };
  for (let round = 1; round <= kills; round += 1) {
    await person.sessions.hibernateSession({ sessionId });
    await sleep(Math.random() * 200);
    await killSandbox();
    await sleep(Math.random() * 200);
    await person.sessions.resumeSession({ sessionId });
    await sleep(Math.random() * 500);
    await killSandbox();
    requestIds.push(`${sessionId}-${round}`);
    expect(await count(sessionId, requestIds[round]!)).toBe(String(round + 1));
    // A session that is lost more often than this in so short a time is given up, as it should be.
    await installation.database.db.updateTable("session").set({ restarts: 0 }).where("id", "=", sessionId).execute();
  }
  await finish(sessionId, requestIds);
}, 240_000);
