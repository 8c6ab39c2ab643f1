import { afterAll, beforeAll, expect, test } from "vitest";
import { SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, watch } from "../support/watcher.ts";

let installation: Installation;
let app: App;
let person: Person;

const limits = { CARREL_IDLE_HIBERNATE_MS: "1500", CARREL_LIMIT_SNAPSHOT_BYTES: "3000000", CARREL_STANDBY_SANDBOXES: "1" };

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, ...limits });
  app = await startApp(installation);
  person = await signUp(installation, app.url, "idle@example.com");
});
afterAll(async () => {
  await app?.close();
  await installation?.remove();
});

test("an idle session is put away by itself and wakes at the next prompt, in a sandbox that stood by", async () => {
  const sessionId = await openSession(person, { initialPrompt: "[[text Hello.]] remember-apricot" });
  const watcher = watch(person, sessionId);
  await watcher.untilKind("result");
  await watcher.untilKind("sessionStatus", ({ detail }) => detail === SessionDetail.DORMANT);
  await person.channel.sendPrompt({ sessionId, text: "[[text Before: {{earlier}}]]" });
  await watcher.until(() => ofKind(watcher.events, "result").length === 2);
  expect(JSON.stringify(ofKind(watcher.events, "assistant").at(-1))).toContain("remember-apricot");
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
});

test("a workspace over the limit of a snapshot keeps its session awake, which says why, and is put away once it fits", async () => {
  const prompt = `[[tool Bash ${JSON.stringify({ command: "head -c 20M /dev/urandom > large; echo made" })}]]`;
  const sessionId = await openSession(person, { initialPrompt: prompt });
  const watcher = watch(person, sessionId);
  await watcher.untilKind("result");
  const { message } = await watcher.untilKind("system", ({ subtype }) => subtype === "hibernation_failed");
  expect(message).toContain("3000000 bytes");
  await person.channel.sendPrompt({ sessionId, text: `[[tool Bash ${JSON.stringify({ command: "wc -c < large; rm large" })}]]` });
  await watcher.until(() => ofKind(watcher.events, "result").length === 2);
  expect(JSON.stringify(ofKind(watcher.events, "toolResult").at(-1)?.content)).toContain("20971520");
  const { epoch, restarts } = await installation.database.db
    .selectFrom("session")
    .select(["epoch", "restarts"])
    .where("id", "=", sessionId)
    .executeTakeFirstOrThrow();
  expect({ epoch, restarts }).toEqual({ epoch: 1, restarts: 0 });
  await watcher.untilKind("sessionStatus", ({ detail }) => detail === SessionDetail.DORMANT);
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
});
