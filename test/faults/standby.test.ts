import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import { createInstallation, type Installation } from "../support/carrel.ts";
import { type Keeper, keepServer } from "../support/keeper.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { destroySandboxes, leftovers } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

let installation: Installation;
let keeper: Keeper;
let person: Person;
let watcher: Watcher | undefined;

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, CARREL_STANDBY_SANDBOXES: "1", CARREL_DRAIN_MS: "1000" });
  keeper = await keepServer(installation);
  person = await signUp(installation, keeper.url, "standby@example.com");
});
afterEach(() => watcher?.stop());
afterAll(async () => {
  await keeper?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

const sessionOf = async (sessionId: string) => (await person.sessions.getSession({ sessionId })).session!;

const rowOf = (sessionId: string) =>
  installation.database.db.selectFrom("session").selectAll().where("id", "=", sessionId).executeTakeFirstOrThrow();

/** Until nothing is left of the session's sandbox, and the only one is the one that stands by. */
async function untilOneStandsBy(sessionId: string): Promise<void> {
  const standing = async () => {
    const { records, processes } = leftovers(installation);
    return [(await rowOf(sessionId)).box, records.length, processes.length > 0];
  };
  await expect.poll(standing, { timeout: 20_000 }).toEqual([null, 1, true]);
}

test("a sandbox that stood by and was given to a session that came back outlives the control plane, with the turn that it is in", async () => {
  const sessionId = await openSession(person);
  watcher = watch(person, sessionId);
  await person.channel.sendPrompt({ sessionId, requestId: "first", text: "[[text Hello.]]" });
  await watcher.untilKind("result", () => true, 30_000);
  await person.sessions.hibernateSession({ sessionId });
  await expect.poll(async () => (await sessionOf(sessionId)).detail, { timeout: 20_000 }).toBe(SessionDetail.DORMANT);
  await untilOneStandsBy(sessionId);

  const text = '[[tool Bash {"command":"sleep 4; echo through"}]]';
  const { seq } = await person.channel.sendPrompt({ sessionId, requestId: "second", text });
  await watcher.until(({ turn, payload }) => turn === seq && payload?.kind.case === "toolUse", 30_000);
  const row = await rowOf(sessionId);
  expect([row.epoch, row.handle?.labels["run"]]).toEqual([2, "0"]);
  await keeper.restart("SIGKILL");

  const result = await watcher.until(({ turn, payload }) => turn === seq && payload?.kind.case === "result", 30_000);
  const said = watcher.events.filter(({ turn, seq: number }) => turn === seq && number <= result.seq);
  expect(JSON.stringify(ofKind(said, "toolResult"))).toContain("through");
  expect(ofKind(said, "system").map(({ subtype }) => subtype)).not.toContain("turn_interrupted");
  expect(ofKind(said, "result").map(({ success }) => success)).toEqual([true]);
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
  await checkLog(installation.database.db, person, sessionId, ["first", "second"]);
}, 90_000);
