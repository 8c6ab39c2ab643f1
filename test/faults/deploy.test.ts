import { writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import WebSocket from "ws";
import { ChannelService } from "../../gen/carrel/v1/channel_service_pb.ts";
import { createInstallation, type Installation } from "../support/carrel.ts";
import { type Keeper, keepServer } from "../support/keeper.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { destroySandboxes, processOf, rootOf } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, watch } from "../support/watcher.ts";

let installation: Installation;
let keeper: Keeper;
let person: Person;

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, CARREL_STANDBY_SANDBOXES: "0", CARREL_DRAIN_MS: "5000" });
  keeper = await keepServer(installation);
  person = await signUp(installation, keeper.url, "deploy@example.com");
});
afterAll(async () => {
  await keeper?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

/** The same person over gRPC. */
function overGrpc(): Person {
  const authenticate: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${person.token}`);
    return next(request);
  };
  const transport = createGrpcTransport({ baseUrl: keeper.url, interceptors: [authenticate] });
  return { ...person, channel: createClient(ChannelService, transport) };
}

/** A browser's way: connects again with the last number that it has. Rejects on a gap or a double. */
function watchSocket(sessionId: string) {
  const seqs: number[] = [];
  const closes: number[] = [];
  const wrong: string[] = [];
  let stopped = false;
  let socket: WebSocket | undefined;
  const connect = (): void => {
    const after = seqs.at(-1) ?? 0;
    socket = new WebSocket(`${keeper.url.replace("http", "ws")}/v1/sessions/${sessionId}/ws?after_seq=${after}`, {
      headers: { authorization: `Bearer ${person.token}` },
    });
    socket.on("error", () => undefined);
    socket.on("message", (data: Buffer) => {
      const { seq } = JSON.parse(data.toString()) as { seq?: number };
      if (typeof seq !== "number" || seq === 0) return;
      if (seq <= (seqs.at(-1) ?? 0)) wrong.push(`${seq} after ${seqs.at(-1)}`);
      seqs.push(seq);
    });
    socket.on("close", (code) => {
      closes.push(code);
      if (!stopped && code !== 4100) setTimeout(connect, 50);
    });
  };
  connect();
  return {
    seqs,
    closes,
    wrong,
    stop() {
      stopped = true;
      socket?.terminate();
    },
  };
}

/** Small calls, one after the other, until told to stop; the codes of those that failed. */
function callAllTheTime(sessionId: string) {
  const codes: Code[] = [];
  let calls = 0;
  let stopped = false;
  const running = (async () => {
    while (!stopped) {
      calls += 1;
      await person.sessions.getSession({ sessionId }).catch((error: unknown) => codes.push(ConnectError.from(error).code));
      await sleep(10);
    }
  })();
  return {
    async stop() {
      stopped = true;
      await running;
      return { codes, calls };
    },
  };
}

test("SIGTERM and the next process: the turn goes on, three watchers miss nothing, and calls fail only so that they can be repeated", async () => {
  const sessionId = await openSession(person);
  const watchers = [watch(person, sessionId), watch(overGrpc(), sessionId)];
  const socket = watchSocket(sessionId);
  // It runs until the next process is there, however long that takes.
  const command = "until [ -e go ]; do sleep 0.1; done; echo tool-went-on";
  const [firstId, secondId] = [`${sessionId}-1`, `${sessionId}-2`];
  await person.channel.sendPrompt({
    sessionId,
    requestId: firstId,
    text: `[[text Start.]] [[tool Bash ${JSON.stringify({ command })}]] [[text after]]`,
  });
  for (const watcher of watchers) await watcher.untilKind("toolUse");
  const [runner, agent] = [await processOf(installation, sessionId, "runner"), await processOf(installation, sessionId, "claude")];
  const before = installation.model.requests().length;
  const calling = callAllTheTime(sessionId);
  // Under way when the signal comes: it is answered, or can be repeated.
  const queued = person.channel.sendPrompt({ sessionId, requestId: secondId, text: "[[text second]]" }).catch(() => undefined);

  const started = performance.now();
  expect(await keeper.end("SIGTERM")).toBe(0);
  expect(performance.now() - started).toBeLessThan(30_000);
  await keeper.start();
  await queued;
  for (;;) {
    const accepted = await person.channel
      .sendPrompt({ sessionId, requestId: secondId, text: "[[text second]]" })
      .catch((error: unknown) => expect(ConnectError.from(error).code).toBe(Code.Unavailable));
    if (accepted) break;
    await sleep(50);
  }

  writeFileSync(`${await rootOf(installation, sessionId)}/workspace/go`, "");
  for (const watcher of watchers) await watcher.until(() => ofKind(watcher.events, "result").length === 2, 20_000);
  const { codes, calls } = await calling.stop();
  expect(calls).toBeGreaterThan(codes.length);
  expect(codes.filter((code) => code !== Code.Unavailable)).toEqual([]);

  // The agent noticed nothing: the same processes, one request for each answer, no word of a retry.
  expect(await processOf(installation, sessionId, "runner")).toBe(runner);
  expect(await processOf(installation, sessionId, "claude")).toBe(agent);
  expect(installation.model.requests().length - before).toBe(2);
  const [first] = watchers;
  expect(ofKind(first!.events, "system")).toEqual([]);
  expect(ofKind(first!.events, "result").every(({ success }) => success)).toBe(true);
  expect(JSON.stringify(ofKind(first!.events, "toolResult")[0]?.content)).toContain("tool-went-on");

  await person.sessions.terminateSession({ sessionId });
  for (const watcher of watchers) await watcher.ended();
  const { events } = await checkLog(installation.database.db, person, sessionId, [firstId, secondId]);
  for (const watcher of watchers) {
    expect(watcher.events).toEqual(events);
    expect(watcher.breaks.length).toBeGreaterThan(0);
  }
  await expect.poll(() => socket.closes.at(-1), { timeout: 5_000 }).toBe(4100);
  socket.stop();
  expect(socket.wrong).toEqual([]);
  expect(socket.closes).toContain(1012);
  const inFrames = new Set(socket.seqs);
  const missed = events.filter(({ seq, payload }) => isFramed(payload?.kind.case) && !inFrames.has(seq));
  expect(missed.map(({ seq, payload }) => `${seq} ${payload?.kind.case}`)).toEqual([]);
}, 90_000);

/** What the WebSocket shows of a log. */
function isFramed(kind: string | undefined): boolean {
  return (
    kind === "user" || kind === "assistant" || kind === "toolUse" || kind === "toolResult" || kind === "result" || kind === "sessionEnd"
  );
}
