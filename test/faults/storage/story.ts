// The whole of a session's life as storage sees it: a prompt, a runner, an approval, a snapshot, and the way back; every call
// repeated by whoever made it until it is answered. The runner is ours, the journal, the archives and the database are real.
import { createHash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { AnswerApprovalRequestSchema, SendPromptRequestSchema } from "../../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts";
import { createSnapshotCalls } from "../../../runner/snapshots.ts";
import { createLocalDisk } from "../../../server/blobs/local-disk.ts";
import type { BlobStore } from "../../../server/blobs/store.ts";
import { createChannelActions } from "../../../server/channel/actions.ts";
import type { User } from "../../../server/identity/principal.ts";
import { newId } from "../../../server/ids.ts";
import { present } from "../../../server/journal/journal.ts";
import { openEvent } from "../../../server/journal/seal.ts";
import type { SessionRow } from "../../../server/journal/store.ts";
import { createRateLimiter } from "../../../server/limits/limiter.ts";
import { clear, hibernate, wake } from "../../../server/runners/hibernation.ts";
import type { StepDeps } from "../../../server/runners/step.ts";
import { claimWithin, once } from "../../../server/sessions/request-ids.ts";
import { aliveOf } from "../../../server/sessions/service.ts";
import { createArchives } from "../../../server/snapshots/archives.ts";
import { enforceRetention } from "../../../server/snapshots/retention.ts";
import { digestOf, findSnapshot, listSnapshots } from "../../../server/snapshots/store.ts";
import { createJournalCore, type JournalCore, type Runner, said } from "../../support/journal-core.ts";
import type { TestDatabase } from "../../support/postgres.ts";
import { type Evidence, nothingHappened } from "../history/evidence.ts";
import { judge, type Violation } from "../history/invariants.ts";
import { follow } from "./follower.ts";

type Stores = { db: TestDatabase["db"]; blobs: BlobStore };

/** The stores as the product uses them, and the same ones for arranging and looking. */
export type Stage = Stores & { core: JournalCore; sure: Stores };

export async function createStage(stores: Stores, sure: Stores): Promise<Stage> {
  return { ...stores, core: await createJournalCore(stores, stores.blobs), sure };
}

export const openBlobs = (directory: string): Promise<BlobStore> => createLocalDisk(directory);

const mostTries = 20;

/** What everybody does who was not answered. A refusal is an answer. */
async function persistently<T>(call: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await call();
    } catch (error) {
      const reason = ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason;
      const final = reason !== undefined && reason !== "UNAVAILABLE" && ConnectError.from(error).code !== Code.Unavailable;
      if (final || tries === mostTries) throw error;
    }
  }
}

const content = Buffer.alloc(700_000, "what a session is put away with ");
async function* pieces(): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < content.length; at += 100_000) yield content.subarray(at, at + 100_000);
}

/** Plays the story and answers what is wrong with what it left. */
export async function tell(stage: Stage): Promise<Violation[]> {
  const { core, sure } = stage;
  const sessionId = await persistently(core.openSession);
  const row = () => sure.db.selectFrom("session").selectAll().where("id", "=", sessionId).executeTakeFirstOrThrow();
  const [people, runners] = [peopleOf(stage, sessionId), runnersOf(stage, sessionId)];
  const reader = follow(core, sessionId);
  await people.prompt("p1");
  const first = await runners.attach();
  await runners.report(first, 1, [said("one"), said("two")]);
  await runners.ask(first, "tool1");
  const answers = await people.answerTwice("tool1");
  await runners.report(first, 3, [turnEnd()]);

  const generation = await putAway(stage, sessionId, row, first);
  await people.prompt("p2");
  const back = await bringBack(stage, row, runners, generation);
  await persistently(() => core.journal.changeOptimistically(sessionId, present, (change) => change.set({ name: "told" })));
  await reader.until((await row()).last_seq);

  const also = [
    ...(await sweep(stage, sessionId, generation)),
    ...(new Set(answers).size === 1 ? [] : [`one answer was taken as events ${answers.join(" and ")}`]),
    ...(back === content.length ? [] : [`${back} bytes came back of ${content.length}`]),
    ...((await row()).state === "running" ? [] : [`the session is ${(await row()).state}`]),
  ];
  const readers = [{ sessionId, name: "a reader", afterSeq: 0, events: reader.events }];
  const evidence = await gather({ core, ...sure }, sessionId, { calls: people.calls, reported: runners.reported, readers });
  return [...judge(evidence), ...also.map((message) => ({ invariant: "I13", damage: "broken" as const, message }))];
}

function turnEnd(): ReturnType<typeof said> {
  return { createdAtMs: Date.now(), payload: { kind: { case: "result", value: { success: true } } } } as unknown as ReturnType<typeof said>;
}

/** What a person does, with its repetitions. */
function peopleOf({ core, db }: Stage, sessionId: string) {
  const rules = { derive: () => undefined, matches: () => false, verdict: () => ({ behavior: "ask" as const }) };
  const { journal, userVault } = core;
  const limiter = createRateLimiter({ perMinute: { registrations: 1_000, sessionCreates: 1_000, tickets: 1_000, prompts: 1_000 } });
  const actions = createChannelActions({ db, journal, rules, userVault, aliveOf, limiter, requestIds: { once, claimWithin } });
  const user: User = {
    userId: core.ownerId,
    issuer: "test",
    subject: core.ownerId,
    email: undefined,
    operator: false,
    expiresAt: Date.now() + 60_000,
  };
  const calls: Evidence["calls"][number][] = [];
  return {
    calls,
    async prompt(name: string): Promise<void> {
      const requestId = `${sessionId}-${name}`;
      const request = create(SendPromptRequestSchema, { sessionId, text: requestId, requestId });
      const { seq } = await persistently(() => actions.sendPrompt(user, request));
      calls.push({ method: "SendPrompt", sessionId, requestId, content: requestId, outcome: "acknowledged", seq });
    },
    /** At once, as somebody with two hands; the event each was told of. */
    async answerTwice(toolUseId: string): Promise<number[]> {
      const request = create(AnswerApprovalRequestSchema, { sessionId, toolUseId, approved: true, requestId: `${sessionId}-${toolUseId}` });
      const answers = await Promise.all([1, 2].map(() => persistently(() => actions.answerApproval(user, request))));
      return answers.map(({ seq }) => seq);
    },
  };
}

type Runners = ReturnType<typeof runnersOf>;

/** What a runner says, with its repetitions. */
function runnersOf({ core }: Stage, sessionId: string) {
  const reported: Evidence["reported"][number][] = [];
  return {
    reported,
    /** One that was not answered is replaced, as the reconciler would. */
    attach: (): Promise<Runner> => persistently(() => core.attach(sessionId)),
    async report({ client, epoch }: Runner, first: number, events: ReturnType<typeof said>[]): Promise<void> {
      const { lastRunnerSeq } = await persistently(() => client.reportEvents({ sessionId, epoch, firstRunnerSeq: first, events }));
      for (let runnerSeq = first; runnerSeq <= lastRunnerSeq; runnerSeq += 1) reported.push({ sessionId, epoch, runnerSeq });
    },
    async ask({ client, epoch }: Runner, toolUseId: string): Promise<void> {
      await persistently(() => client.decideTool({ sessionId, epoch, toolUseId, toolName: "Bash", input: { command: "true" } }));
    },
    snapshots: ({ client, epoch, leaseToken }: Runner) =>
      createSnapshotCalls(client as never, core.fetchWith(leaseToken), { sessionId, epoch }, persistently, { timeoutMs: 20_000 }),
  };
}

type ReadRow = () => Promise<SessionRow>;

/** From the wish until nothing of its sandbox is left; answers the snapshot's generation. */
async function putAway(stage: Stage, sessionId: string, row: ReadRow, runner: Runner): Promise<number> {
  const { journal } = stage.core;
  const steps = stepDeps(stage.core);
  await persistently(() => journal.change(sessionId, present, (change) => change.set({ desired: "hibernate" })));
  await step(row, "hibernating", async () => hibernate(steps, await row()));
  const hibernating = await row();
  const generation = (hibernating.snapshot_generation ?? 0) + 1;
  const asked = { generation, baseGeneration: 0, commandId: hibernating.last_command_id };
  const put = runnersOf(stage, sessionId).snapshots(runner).put(asked, pieces, new AbortController().signal);
  // A commit whose answer was lost is told by the state: the runner is gone then, as a real one would be.
  await put.catch(async (error: unknown) => {
    if ((await row()).state !== "dormant") throw error;
  });
  await persistently(async () => clear(steps, await row()));
  return generation;
}

/** From the prompt that woke it until its next turn is over; answers how many bytes came back. */
async function bringBack(stage: Stage, row: ReadRow, runners: Runners, generation: number): Promise<number> {
  const steps = stepDeps(stage.core);
  await step(row, "requested", async () => wake(steps, await row()));
  const runner = await runners.attach();
  const bytes = await restore(runner, runners.snapshots(runner), generation);
  await runners.snapshots(runner).reportRestore("");
  await runners.report(runner, 1, [said("three"), turnEnd()]);
  return bytes;
}

/** What a process that died left behind long ago goes, and what a row names stays. */
async function sweep({ core, db, blobs }: Stores & Pick<Stage, "core">, sessionId: string, generation: number): Promise<string[]> {
  const stray = `snapshots/${sessionId}/${newId("arc", Date.now() - 2 * 86_400_000)}`;
  await persistently(() => blobs.put(stray, pieces()));
  const archives = createArchives(blobs, core.userVault);
  await persistently(() => enforceRetention({ db, archives, retentionMs: 86_400_000, isOurs: true, end: async () => undefined }));
  const snapshot = await persistently(() => findSnapshot(db, sessionId, generation));
  const [gone, kept] = [
    await persistently(() => blobs.stat(stray)),
    await persistently(() => blobs.stat(`snapshots/${snapshot?.archive}`)),
  ];
  return [...(gone ? ["a stray archive was not removed"] : []), ...(kept ? [] : ["an archive that is needed was removed"])];
}

/** A step that was overtaken by its own commit is not taken again. */
async function step(row: () => Promise<{ state: string }>, after: string, take: () => Promise<void>): Promise<void> {
  await persistently(async () => {
    if ((await row()).state !== after) await take();
  });
}

async function restore(runner: Runner, calls: ReturnType<typeof createSnapshotCalls>, generation: number): Promise<number> {
  let bytes = 0;
  if (runner.manifest?.restore?.generation !== generation) throw new Error("the new runner was not told what to bring back");
  await calls.get([generation], async (archives) => {
    bytes = 0;
    for (const archive of archives) for await (const piece of archive()) bytes += piece.length;
  });
  return bytes;
}

function stepDeps(core: JournalCore): StepDeps {
  const launcher = { list: async () => [], destroy: async () => undefined, removeFiles: async () => undefined };
  return { journal: core.journal, launcher, idleMs: 60_000, settled: async () => undefined } as unknown as StepDeps;
}

async function gather(
  { core, db, blobs }: Stores & Pick<Stage, "core">,
  sessionId: string,
  seen: Pick<Evidence, "calls" | "reported" | "readers">,
): Promise<Evidence> {
  const session = await db.selectFrom("session").selectAll().where("id", "=", sessionId).executeTakeFirstOrThrow();
  const rows = await db.selectFrom("event").selectAll().where("session_id", "=", sessionId).orderBy("seq").execute();
  const vault = await core.userVault(core.ownerId);
  const events = rows.map((one) => openEvent(vault, one));
  const kept = await listSnapshots(db, sessionId);
  const archives: Evidence["archives"][number][] = [];
  for await (const key of blobs.list(`snapshots/${sessionId}/`)) {
    const sum = createHash("sha256");
    let bytes = 0;
    for await (const piece of blobs.get(key)) {
      sum.update(piece);
      bytes += piece.length;
    }
    archives.push({ name: key.slice("snapshots/".length), bytes, sha256: sum.digest("hex") });
  }
  return {
    ...nothingHappened,
    sessions: [
      {
        session: { ...session, tokens: [] },
        rows,
        events,
        snapshots: kept.map((snapshot) => ({ ...snapshot, ...digestOf(snapshot) })),
      },
    ],
    ...seen,
    archives,
  };
}
