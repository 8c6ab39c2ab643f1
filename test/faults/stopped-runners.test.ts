/** A runner that is stopped for longer than its lease, and whoever acts with its rights afterwards: nothing of theirs is accepted. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import { createWritableIterable } from "@connectrpc/connect/protocol";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { PutSnapshotRequestSchema, ReportEventsRequestSchema, RunnerService } from "../../gen/carrel/runner/v1/runner_service_pb.ts";
import { SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { destroySandboxes, isRunning, leftovers, placesOf, processesOf, processOf, signalFamily } from "../support/sandboxes.ts";
import { askModel, runnerOver, type Stolen, steal } from "../support/stolen.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

/** How long a runner is silent before it is replaced; the long form sets a minute. */
const staleMs = Number(process.env["CARREL_TEST_STALE_MS"] ?? 4_000);
const takeOverMs = staleMs + 20_000;

let installation: Installation;
let app: App;
let person: Person;
let watcher: Watcher | undefined;

beforeAll(async () => {
  installation = await createInstallation({
    ...unlimited,
    CARREL_STANDBY_SANDBOXES: "0",
    CARREL_HEARTBEAT_MS: String(Math.min(10_000, staleMs / 8)),
    CARREL_HEARTBEAT_STALE_MS: String(staleMs),
  });
  app = await startApp(installation);
  person = await signUp(installation, app.url, "stopped@example.com");
});
afterEach(() => watcher?.stop());
afterAll(async () => {
  await app?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

async function open(): Promise<string> {
  const sessionId = await openSession(person);
  watcher = watch(person, sessionId);
  await turn(sessionId, '[[text one]] remember-apricot [[tool Bash {"command":"echo x >> marks"}]]');
  return sessionId;
}

async function turn(sessionId: string, text: string): Promise<void> {
  const from = watcher!.events.length;
  await person.channel.sendPrompt({ sessionId, text });
  expect((await watcher!.untilKind("result", () => true, takeOverMs, from)).success).toBe(true);
}

async function socketOf(sessionId: string): Promise<string> {
  const { box } = await installation.database.db.selectFrom("session").select("box").where("id", "=", sessionId).executeTakeFirstOrThrow();
  return join(placesOf(installation).run, box!, "channel/carrel.sock");
}

async function detail(sessionId: string): Promise<SessionDetail> {
  return (await person.sessions.getSession({ sessionId })).session!.detail;
}

async function refusal(call: Promise<unknown>): Promise<string> {
  return call.then(
    () => "accepted",
    (error: unknown) => ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason ?? ConnectError.from(error).rawMessage,
  );
}

/** Every call a runner has, with rights of the past; each by what its method takes. */
async function tryEverything(socketPath: string, stolen: Stolen): Promise<Record<string, string>> {
  const client = runnerOver(socketPath, stolen);
  const { sessionId, epoch } = stolen;
  const message = { sessionId, epoch, generation: 1, toolUseId: "t", toolName: "Bash", attachToken: stolen.attach, last: true };
  async function* messages() {
    yield message;
  }
  async function first(answers: AsyncIterable<unknown>): Promise<void> {
    for await (const _answer of answers) return;
  }
  const outcomes: Record<string, string> = {};
  for (const method of RunnerService.methods) {
    const call = client[method.localName as keyof typeof client] as (input: unknown) => never;
    const streamsIn = method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming";
    const streamsOut = method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming";
    const answer = call(streamsIn ? messages() : message);
    outcomes[method.name] = await refusal(streamsOut ? first(answer) : answer);
  }
  return outcomes;
}

const allFenced = Object.fromEntries(RunnerService.methods.map(({ name }) => [name, "FENCED"]));

async function finish(sessionId: string): Promise<void> {
  await person.sessions.terminateSession({ sessionId });
  await watcher!.ended();
  const { events } = await checkLog(installation.database.db, person, sessionId);
  expect(watcher!.events).toEqual(events);
  await expect.poll(() => Object.values(leftovers(installation)).flat(), { timeout: 15_000 }).toEqual([]);
}

test(
  "a sandbox that is stopped for longer than its lease is gone when another has taken over, with all its processes",
  async () => {
    const sessionId = await open();
    const family = await processesOf(installation, sessionId);
    expect(family.length).toBeGreaterThan(2);
    const started = performance.now();
    await signalFamily(family[0]!.pid, "SIGSTOP");
    await watcher!.untilKind("sessionStatus", ({ detail: one }) => one === SessionDetail.RECOVERING, takeOverMs);
    expect(performance.now() - started).toBeGreaterThan(staleMs * 0.75);
    await turn(sessionId, "[[text Before: {{earlier}}]]");
    expect(JSON.stringify(ofKind(watcher!.events, "assistant").at(-1)?.content.value)).toContain("remember-apricot");
    // There is nobody whom SIGCONT could wake.
    expect(family.filter(({ pid }) => isRunning(pid))).toEqual([]);
    await finish(sessionId);
  },
  60_000 + takeOverMs,
);

test(
  "the rights of a runner that was replaced are worth nothing, over the socket it had and over the next one",
  async ({ skip }) => {
    if (process.getuid?.() !== 0) skip("only root can read the memory of another's processes");
    const sessionId = await open();
    const stolen = await steal(installation, sessionId);
    const before = await socketOf(sessionId);
    // They are the real ones: as long as it is their runner's turn, they open everything.
    expect(await askModel(before, stolen)).toBe(200);
    expect(await refusal(runnerOver(before, stolen).decideTool({ ...stolen, toolUseId: "t0", toolName: "Bash", input: {} }))).toBe(
      "accepted",
    );

    process.kill(await processOf(installation, sessionId, "runner"), "SIGSTOP");
    await watcher!.untilKind("sessionStatus", ({ detail: one }) => one === SessionDetail.RECOVERING, takeOverMs);
    await turn(sessionId, "[[text two]]");
    const asked = installation.model.requests().length;
    const same = await socketOf(sessionId);
    expect(same).toBe(before);
    expect(await tryEverything(same, stolen)).toEqual(allFenced);
    expect(await askModel(same, stolen)).toBe(401);

    // Put away and brought back, the session has another box: the old socket is gone, and the new one is not theirs either.
    const replaced = await steal(installation, sessionId);
    // On a busy machine a lease this short may pass meanwhile; then it is awake again, and asked again.
    const rests = async (): Promise<SessionDetail> => {
      const now = await detail(sessionId);
      if (now === SessionDetail.IDLE) await person.sessions.hibernateSession({ sessionId });
      return now;
    };
    await expect.poll(rests, { timeout: 30_000, interval: 500 }).toBe(SessionDetail.DORMANT);
    await turn(sessionId, '[[tool Bash {"command":"cat marks"}]]');
    const next = await socketOf(sessionId);
    expect([next === before, existsSync(before)]).toEqual([false, false]);
    for (const past of [stolen, replaced]) {
      expect(await tryEverything(next, past)).toEqual(allFenced);
      expect(await askModel(next, past)).toBe(401);
    }
    expect(installation.model.requests().filter(({ body }) => JSON.stringify(body).includes("stolen"))).toHaveLength(1);
    expect(installation.model.requests().length).toBeGreaterThan(asked);
    await finish(sessionId);
  },
  90_000 + takeOverMs,
);

test(
  "what a runner had begun to say when it was replaced is not accepted either: a batch, a snapshot",
  async ({ skip }) => {
    if (process.getuid?.() !== 0) skip("only root can read the memory of another's processes");
    const sessionId = await open();
    const stolen = await steal(installation, sessionId);
    const { sessionId: _sessionId, epoch } = stolen;
    const runner = runnerOver(await socketOf(sessionId), stolen);
    const [batches, pieces] = [createWritableIterable<never>(), createWritableIterable<never>()];
    const answers = runner.reportEvents(batches)[Symbol.asyncIterator]();
    /** As long as these come, the lease lives, whoever sends them. */
    const beat = async (): Promise<void> => {
      const sent = batches.write(create(ReportEventsRequestSchema, { sessionId, epoch, firstRunnerSeq: 1 }) as never);
      await Promise.all([sent, answers.next()]);
    };
    const state = () => installation.database.db.selectFrom("session").select("state").where("id", "=", sessionId).executeTakeFirst();

    await beat();
    // Stopped, all of it, before it is asked for a snapshot, of which somebody else has the stream.
    await signalFamily((await processesOf(installation, sessionId))[0]!.pid, "SIGSTOP");
    await person.sessions.hibernateSession({ sessionId });
    await expect.poll(() => beat().then(state), { timeout: 10_000 }).toEqual({ state: "hibernating" });
    const put = refusal(runner.putSnapshot(pieces));
    const piece = (last: boolean) =>
      create(PutSnapshotRequestSchema, { sessionId, epoch, generation: 1, data: new Uint8Array(1_000), last }) as never;
    void pieces.write(piece(false));
    await beat();
    await watcher!.untilKind("sessionStatus", ({ detail: one }) => one === SessionDetail.RECOVERING, takeOverMs);
    await watcher!.untilKind("sessionStatus", ({ detail: one }) => one === SessionDetail.IDLE, takeOverMs, watcher!.events.length - 1);
    void pieces.write(piece(true)).catch(() => undefined);
    pieces.close();
    void batches.write(create(ReportEventsRequestSchema, { sessionId, epoch, firstRunnerSeq: 1_000 }) as never).catch(() => undefined);
    expect(await put).not.toBe("accepted");
    expect(await refusal(answers.next())).toBe("FENCED");
    const kept = await installation.database.db.selectFrom("snapshot").selectAll().where("session_id", "=", sessionId).execute();
    expect(kept).toEqual([]);
    await finish(sessionId);
  },
  60_000 + takeOverMs,
);
