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
import { openEvent } from "../../../server/journal/seal.ts";
import { wake as wakeSession } from "../../../server/journal/turns.ts";
import { clear, hibernate, wake } from "../../../server/runners/hibernation.ts";
import type { StepDeps } from "../../../server/runners/step.ts";
import { once } from "../../../server/sessions/request-ids.ts";
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
export async function tell({ core, db, sure, blobs }: Stage): Promise<Violation[]> {
  const sessionId = await persistently(core.openSession);
  const user: User = { kind: "user", userId: core.ownerId, subject: core.ownerId } as unknown as User;
  const allowed = { derive: () => undefined, matches: () => false, verdict: () => ({ behavior: "ask" as const }) };
  const actions = createChannelActions({
    db,
    journal: core.journal,
    rules: allowed,
    userVault: core.userVault,
    aliveOf,
    limitPrompt: async () => undefined,
    once,
  });
  const calls: Evidence["calls"][number][] = [];
  const reported: Evidence["reported"][number][] = [];

  const prompt = async (name: string): Promise<void> => {
    const requestId = `${sessionId}-${name}`;
    const request = create(SendPromptRequestSchema, { sessionId, text: requestId, requestId });
    const { seq } = await persistently(() => actions.sendPrompt(user, request));
    calls.push({ method: "SendPrompt", sessionId, requestId, content: requestId, outcome: "acknowledged", seq });
  };
  /** One that was not answered is replaced, as the reconciler would. */
  const attach = (): Promise<Runner> => persistently(() => core.attach(sessionId));
  const report = async (runner: Runner, first: number, events: ReturnType<typeof said>[]): Promise<void> => {
    const batch = { sessionId, epoch: runner.epoch, firstRunnerSeq: first, events };
    const { lastRunnerSeq } = await persistently(() => runner.client.reportEvents(batch));
    for (let seq = first; seq <= lastRunnerSeq; seq += 1) reported.push({ sessionId, epoch: runner.epoch, runnerSeq: seq });
  };
  const snapshots = (runner: Runner) => createSnapshotCalls(runner.client as never, { sessionId, epoch: runner.epoch }, persistently);

  const reader = follow(core, sessionId);
  await prompt("p1");
  const first = await attach();
  await report(first, 1, [said("one"), said("two")]);
  const asked = { sessionId, epoch: first.epoch, toolUseId: "tool1", toolName: "Bash", input: { command: "true" } };
  await persistently(() => first.client.decideTool(asked));
  const answer = create(AnswerApprovalRequestSchema, { sessionId, toolUseId: "tool1", approved: true, requestId: `${sessionId}-a1` });
  const answered = await Promise.all([1, 2].map(() => persistently(() => actions.answerApproval(user, answer))));
  const end = { createdAtMs: Date.now(), payload: { kind: { case: "result" as const, value: { success: true } } } };
  await report(first, 3, [end as never]);

  const steps = stepDeps(core);
  const row = () => sure.db.selectFrom("session").selectAll().where("id", "=", sessionId).executeTakeFirstOrThrow();
  await persistently(() =>
    core.journal.change(
      sessionId,
      (session) => session!,
      (change) => change.set({ desired: "hibernate" }),
    ),
  );
  await step(row, "hibernating", async () => hibernate(steps, await row()));
  const generation = ((await row()).snapshot_generation ?? 0) + 1;
  // A commit whose answer was lost is told by the state: the runner is gone then, as a real one would be.
  await snapshots(first)
    .put(generation, pieces, new AbortController().signal)
    .catch(async (error: unknown) => {
      if ((await row()).state !== "dormant") throw error;
    });
  await persistently(async () => clear(steps, await row()));
  await prompt("p2");
  await persistently(() => core.journal.change(sessionId, (session) => session!, wakeSession));
  await step(row, "requested", async () => wake(steps, await row()));
  const second = await attach();
  const back = await restore(second, snapshots(second), generation);
  await snapshots(second).reportRestore("");
  await report(second, 1, [said("three"), end as never]);
  await persistently(() =>
    core.journal.changeOptimistically(
      sessionId,
      (session) => session!,
      (change) => change.set({ name: "told" }),
    ),
  );

  await reader.until((await row()).last_seq);
  const left = await sweep({ core, db, blobs }, sessionId, generation);

  const problems = judge(
    await gather({ core, ...sure }, sessionId, {
      calls,
      reported,
      readers: [{ sessionId, name: "a reader", afterSeq: 0, events: reader.events }],
    }),
  );
  const seqs = new Set(answered.map(({ seq }) => seq));
  const also = [
    ...left,
    ...(seqs.size === 1 ? [] : [`one answer was taken as events ${[...seqs].join(" and ")}`]),
    ...(back === content.length ? [] : [`${back} bytes came back of ${content.length}`]),
    ...((await row()).state === "running" ? [] : [`the session is ${(await row()).state}`]),
  ];
  return [...problems, ...also.map((message) => ({ invariant: "I13", damage: "broken" as const, message }))];
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
  await calls.get(generation, async (source) => {
    bytes = 0;
    for await (const piece of source) bytes += piece.length;
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
