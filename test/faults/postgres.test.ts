import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { connectDatabase, type DatabaseConnection } from "../../server/db/connect.ts";
import { findPostmaster } from "../../server/db/embedded-process.ts";
import { createInstallation, type Installation } from "../support/carrel.ts";
import { type Keeper, keepServer } from "../support/keeper.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { silentLog } from "../support/postgres-server.ts";
import { destroySandboxes, placesOf, processOf } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, watch } from "../support/watcher.ts";

let installation: Installation;
let keeper: Keeper;
let person: Person;
let database: DatabaseConnection;

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, DATABASE_URL: "" });
  keeper = await keepServer(installation);
  person = await signUp(installation, keeper.url, "postgres@example.com");
  const socketDirectory = join(placesOf(installation).run, "pg");
  database = connectDatabase({
    connection: { host: socketDirectory, port: 5432, user: "carrel", database: "carrel" },
    poolSize: 2,
    log: silentLog(),
  });
});
afterAll(async () => {
  await database?.close();
  await keeper?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

const postmaster = () => findPostmaster(join(placesOf(installation).data, "postgres"))?.pid;

/** One REST call as seen from outside. */
async function ask(path: string, body?: object): Promise<{ status: number; error: string }> {
  const response = await fetch(keeper.url + path, {
    method: body ? "POST" : "GET",
    headers: { authorization: `Bearer ${person.token}`, ...(body ? { "content-type": "application/json" } : {}) },
    ...(body ? { body: JSON.stringify(body) } : {}),
  });
  const answer = (await response.json()) as { error?: string };
  return { status: response.status, error: answer.error ?? "" };
}

test("Postgres killed in the middle of a streaming turn comes back by itself, and the turn is complete in the log", async () => {
  const sessionId = await openSession(person);
  const watcher = watch(person, sessionId);
  await person.channel.sendPrompt({
    sessionId,
    requestId: "p1",
    text: '[[text Start.]] [[tool Bash {"command":"sleep 1; echo tool-went-on"}]] [[slow 60 tokens 30ms]]',
  });
  await watcher.untilKind("toolUse");
  // Somebody keeps asking all the while, on both kinds of surface.
  const answers: { status: number; error: string }[] = [];
  const codes: { code: Code; reason: string | undefined }[] = [];
  let asking = true;
  const asked = (async () => {
    for (let round = 0; asking; round += 1) {
      answers.push(await ask(`/v1/sessions/${sessionId}`), await ask("/v1/sessions"));
      if (round % 3 === 0)
        answers.push(await ask("/readyz"), await ask(`/v1/sessions/${sessionId}/prompts`, { text: "[[text again]]", request_id: "p2" }));
      await person.channel.listEvents({ sessionId }).catch((error: unknown) => {
        const refusal = ConnectError.from(error);
        codes.push({ code: refusal.code, reason: refusal.findDetails(ErrorInfoSchema)[0]?.reason });
      });
      await sleep(20);
    }
  })();
  const runner = await processOf({ ...installation, database: { ...installation.database, db: database.db } }, sessionId, "runner");
  const killed = postmaster()!;
  process.kill(killed, "SIGKILL");
  const started = performance.now();
  await watcher.until(() => ofKind(watcher.events, "result").length === 2, 40_000);
  const recovered = performance.now() - started;
  asking = false;
  await asked;

  expect(postmaster()).not.toBe(killed);
  expect(ofKind(watcher.events, "result").map(({ success, subtype, summary }) => success || `${subtype}: ${summary}`)).toEqual([
    true,
    true,
  ]);
  expect(JSON.stringify(ofKind(watcher.events, "toolResult")[0]?.content)).toContain("tool-went-on");
  expect(await processOf({ ...installation, database: { ...installation.database, db: database.db } }, sessionId, "runner")).toBe(runner);
  // The outage was seen, and only as what it was.
  const failures = answers.filter(({ status }) => status >= 400);
  expect(failures.length).toBeGreaterThan(0);
  expect([...new Set(failures.map(({ status, error }) => `${status} ${error}`))].toSorted()).toEqual(
    expect.arrayContaining(["503 unavailable"]),
  );
  expect(failures.filter(({ status, error }) => !(status === 503 && (error === "unavailable" || error === "")))).toEqual([]);
  expect(codes.length).toBeGreaterThan(0);
  expect(codes.filter(({ code, reason }) => code !== Code.Unavailable || reason !== "UNAVAILABLE")).toEqual([]);
  expect(watcher.breaks.every((code) => code === Code.Unavailable)).toBe(true);

  // Every answer of the model was paid for once, whatever happened to the statement that booked it.
  const answered = installation.model
    .requests()
    .filter(
      ({ path, end, status }) => path.startsWith("/v1/messages") && !path.includes("count_tokens") && end === "complete" && status === 200,
    );
  const booked = ofKind(watcher.events, "usageDelta").length;
  expect(booked).toBe(answered.length);
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
  const { events } = await checkLog(database.db, person, sessionId, ["p1", "p2"]);
  expect(watcher.events).toEqual(events);
  console.info(
    `Postgres killed: turn complete after ${Math.round(recovered)} ms; ${failures.length} of ${answers.length} REST calls and ${codes.length} RPCs refused, all as unavailable`,
  );
}, 90_000);

test("Postgres killed again and again: nothing that was acknowledged is lost", async () => {
  const sessionId = await openSession(person);
  const watcher = watch(person, sessionId);
  const prompts: string[] = [];
  for (let kills = 0; kills < 3; kills += 1) {
    const requestId = `again-${kills}`;
    prompts.push(requestId);
    await repeated(() =>
      person.channel.sendPrompt({ sessionId, requestId, text: `[[tool Bash {"command":"echo ${kills}"}]] [[slow 10 tokens 10ms]]` }),
    );
    await sleep(Math.random() * 300);
    process.kill(postmaster()!, "SIGKILL");
    await watcher.until(() => ofKind(watcher.events, "result").length === kills + 1, 40_000);
  }
  await repeated(() => person.sessions.terminateSession({ sessionId }));
  await watcher.ended(30_000);
  const { events, turns } = await checkLog(database.db, person, sessionId, prompts);
  expect(watcher.events).toEqual(events);
  expect(turns).toBe(3);
}, 120_000);

async function repeated<T>(call: () => Promise<T>): Promise<T> {
  for (let attempts = 1; ; attempts += 1) {
    try {
      return await call();
    } catch (error) {
      if (attempts >= 200 || ConnectError.from(error).code !== Code.Unavailable) throw error;
      await sleep(50);
    }
  }
}
