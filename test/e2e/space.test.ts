/** What a session may fill, with the real agent. */
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { checkLog } from "../support/log-checker.ts";
import { clientsWith, openSession, type Person, signUp } from "../support/person.ts";
import { destroySandboxes, processOf } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

const limitBytes = 64 * 2 ** 20;

let installation: Installation;
let app: App;
let person: Person;
let watcher: Watcher | undefined;

beforeAll(async () => {
  installation = await createInstallation({
    ...unlimited,
    CARREL_LIMIT_WORKSPACE_BYTES: String(limitBytes),
    CARREL_LIMIT_HOME_BYTES: String(limitBytes),
    CARREL_STANDBY_SANDBOXES: "0",
  });
  app = await startApp(installation);
  person = await signUp(installation, app.url, "space@example.com");
});
afterEach(() => watcher?.stop());
afterAll(async () => {
  await app?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

async function bash(sessionId: string, command: string): Promise<string> {
  const from = watcher!.events.length;
  await person.channel.sendPrompt({ sessionId, text: `[[tool Bash ${JSON.stringify({ command })}]]` });
  expect((await watcher!.untilKind("result", () => true, 30_000, from)).success).toBe(true);
  return JSON.stringify(ofKind(watcher!.events.slice(from), "toolResult")[0]?.content);
}

test("a full workspace or home stops the writer, not the session, which goes on when it has made room", async ({ skip }) => {
  if (app.sandboxGaps.includes("disk space")) skip(app.sandboxGaps);
  const sessionId = await openSession(person);
  watcher = watch(person, sessionId);
  expect(await bash(sessionId, "ls -A; for place in . ~; do head -c 100M /dev/zero > $place/large; done")).toMatch(
    /No space left.*No space left/,
  );
  expect(await bash(sessionId, "rm large ~/large; echo made room")).toContain("made room");
  expect(await bash(sessionId, "head -c 30M /dev/zero > fits && echo it-fits")).toContain("it-fits");
  // The files are those of the session, not of its sandbox.
  process.kill(await processOf(installation, sessionId, "runner"), "SIGKILL");
  await watcher.untilKind("sessionStatus", ({ detail }) => detail === 3);
  expect(await bash(sessionId, "stat -c %s fits; ls -A ~ | wc -l")).toContain(String(30 * 2 ** 20));
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
  await checkLog(installation.database.db, person, sessionId);
}, 90_000);

test("what was put away with more room than sandboxes have now says what to do, and comes back when it is done", async ({ skip }) => {
  if (app.sandboxGaps.includes("disk space")) skip(app.sandboxGaps);
  const restart = async (factor: number): Promise<void> => {
    await app.close();
    const environment = { ...installation.environment, CARREL_LIMIT_WORKSPACE_BYTES: String(factor * limitBytes) };
    app = await startApp({ ...installation, environment });
    person = clientsWith(app.url, person.token);
  };
  // More than there is room for altogether, and more than a file may hold.
  for (const files of ["one two", "one"]) {
    await restart(2);
    const sessionId = await openSession(person);
    watcher = watch(person, sessionId);
    const each = Math.ceil(80 / files.split(" ").length);
    const sum = await bash(sessionId, `for name in ${files}; do head -c ${each}M /dev/urandom > $name; done; cat ${files} | md5sum`);
    const untilDormant = () => watcher!.untilKind("sessionStatus", ({ detail }) => detail === SessionDetail.DORMANT, 30_000);
    await person.sessions.hibernateSession({ sessionId });
    await untilDormant();
    await watcher.stop();
    await restart(1);
    watcher = watch(person, sessionId);
    await person.sessions.resumeSession({ sessionId });
    const notice = await watcher.untilKind("system", ({ subtype }) => subtype === "resume_failed", 30_000);
    expect([notice.details, notice.message]).toEqual([{ cause: "no_room" }, expect.stringContaining("raise CARREL_LIMIT_WORKSPACE_BYTES")]);
    await watcher.stop();
    await restart(2);
    watcher = watch(person, sessionId);
    await watcher.until(({ payload }) => payload?.kind.case === "system" && payload.kind.value.subtype === "resume_failed");
    expect(await bash(sessionId, `cat ${files} | md5sum`)).toBe(sum);
    await person.sessions.terminateSession({ sessionId });
    await watcher.ended();
    await checkLog(installation.database.db, person, sessionId);
  }
}, 180_000);
