// What a person can do to a session, one call at a time, each repeated until it is answered.
import { setTimeout as sleep } from "node:timers/promises";
import type { Event } from "../../../gen/carrel/v1/event_pb.ts";
import { SessionDetail } from "../../../gen/carrel/v1/session_pb.ts";
import { listSnapshots } from "../../../server/snapshots/store.ts";
import { repeated } from "../../support/repeated.ts";
import { ofKind, type Watcher } from "../../support/watcher.ts";
import type { Moments } from "../nemesis/nemesis.ts";
import type { World } from "../world.ts";
import type { Recorder } from "./recorder.ts";

export type LifeDeps = { world: World; recorder: Recorder; moments: Moments; name: string };

/** One session as its person knows it. */
export type Known = LifeDeps & { sessionId: string; watcher: Watcher; prompts: number[]; count(): number };

export const turnMs = 90_000;

/** Adds a line of its own to a file, and is shown the whole of it. */
export async function mark(known: Known): Promise<void> {
  const id = `${known.name}.${known.count()}`;
  await prompt(known, `[[tool Bash {"command":"echo ${id} >> marks; cat marks"}]] [[text told]]`, id);
}

export async function talk(known: Known): Promise<void> {
  await prompt(known, "[[slow 12 tokens 15ms]]", `${known.name}.${known.count()}`);
}

async function prompt({ world, recorder, moments, sessionId, prompts }: Known, text: string, requestId: string): Promise<void> {
  moments.begun("prompt");
  const send = () =>
    recorder.careful(
      { method: "SendPrompt", sessionId, requestId, content: text },
      () => world.person.channel.sendPrompt({ sessionId, requestId, text }),
      ({ seq }) => ({ seq }),
    );
  // Some clients are in a hurry and ask twice at once.
  const [answer] = await Promise.all(world.random.chance(0.3) ? [send(), send()] : [send()]);
  if (answer) prompts.push(answer.seq);
}

/** Resolves when every prompt has had its turn. */
export async function turnsOver({ prompts, watcher }: Known): Promise<void> {
  for (const seq of prompts) await watcher.until(({ turn, payload }) => turn === seq && payload?.kind.case === "result", turnMs);
}

/** False when it was refused. */
export async function hibernate({ world, recorder, moments, sessionId }: Known): Promise<boolean> {
  moments.begun("hibernate");
  const call = { method: "HibernateSession", sessionId, requestId: "", content: "" };
  return (await recorder.careful(call, () => world.person.sessions.hibernateSession({ sessionId }))) !== undefined;
}

export async function resume({ world, recorder, moments, sessionId }: Known): Promise<void> {
  moments.begun("resume");
  const call = { method: "ResumeSession", sessionId, requestId: "", content: "" };
  await recorder.careful(call, () => world.person.sessions.resumeSession({ sessionId }));
}

export async function terminate({ world, recorder, moments, sessionId }: Known): Promise<void> {
  moments.begun("terminate");
  const call = { method: "TerminateSession", sessionId, requestId: "", content: "" };
  await recorder.careful(call, () => world.person.sessions.terminateSession({ sessionId }));
}

/** The id of the fork; undefined when the session does not rest, or may not be forked. */
export async function fork(known: Known): Promise<string | undefined> {
  const { world, recorder, moments, sessionId, watcher, name } = known;
  if (!hasEnded(watcher) && !(await untilDormant(watcher, 8_000))) return undefined;
  const requestId = `fork-${name}-${known.count()}`;
  const untouched = await digestOf(world, sessionId);
  moments.begun("fork");
  const made = await recorder.careful(
    { method: "ForkSession", sessionId, requestId, content: "" },
    () => world.person.sessions.forkSession({ sessionId, requestId }),
    ({ session }) => ({ made: session!.id }),
  );
  if (!made?.session) return undefined;
  const { id, forkedAtSeq } = made.session;
  recorder.forks.push({ sourceId: sessionId, before: untouched, after: await digestOf(world, sessionId) });
  // What the fork finds has to go on from what its source had found there.
  const before = looksOf(watcher.events, sessionId).findLast(({ turn }) => turn <= forkedAtSeq);
  if (before) recorder.looks.push({ sessionId: id, turn: 0, lines: before.lines });
  return id;
}

export async function untilDormant(watcher: Watcher, patienceMs: number): Promise<boolean> {
  const giveUpAt = performance.now() + patienceMs;
  while (performance.now() < giveUpAt) {
    if (ofKind(watcher.events, "sessionStatus").at(-1)?.detail === SessionDetail.DORMANT) return true;
    await sleep(50);
  }
  return false;
}

export function hasEnded({ events }: Watcher): boolean {
  return events.at(-1)?.payload?.kind.case === "sessionEnd";
}

/** What each turn that marked the workspace found in it. */
export function looksOf(events: readonly Event[], sessionId: string): Recorder["looks"] {
  return events.flatMap(({ turn, payload }) => {
    if (payload?.kind.case !== "toolResult" || payload.kind.value.isError) return [];
    const lines = [...JSON.stringify(payload.kind.value.content ?? null).matchAll(/\b[a-z]+\d+f*\.\d+\b/g)].map(([line]) => line);
    return lines.length > 0 ? [{ sessionId, turn, lines }] : [];
  });
}

/** Everything the agent asks is answered, now and then with a no, until the session has ended. */
export async function answerAll({ world, recorder, moments, sessionId, watcher }: Known): Promise<void> {
  for (let seen = 0; ; ) {
    const asked = await watcher
      .until(({ payload }) => payload?.kind.case === "toolApprovalRequest" || payload?.kind.case === "sessionEnd", 600_000, seen)
      .catch(() => undefined);
    if (asked?.payload?.kind.case !== "toolApprovalRequest") return;
    seen = asked.seq;
    const { toolUseId } = asked.payload.kind.value;
    const approved = world.random.chance(0.9);
    await sleep(world.random.below(200));
    moments.begun("answer");
    await recorder.careful(
      { method: "AnswerApproval", sessionId, requestId: `answer-${toolUseId}`, content: `${toolUseId} ${approved}` },
      () => world.person.channel.answerApproval({ sessionId, toolUseId, approved, requestId: `answer-${toolUseId}` }),
    );
  }
}

/** A session's log, by its last link, and its snapshots. */
async function digestOf({ installation }: World, sessionId: string): Promise<string> {
  const { db } = installation.database;
  const session = await repeated(() =>
    db.selectFrom("session").select(["last_seq", "chain"]).where("id", "=", sessionId).executeTakeFirstOrThrow(),
  );
  const kept = await repeated(() => listSnapshots(db, sessionId));
  const snapshots = kept.map(({ generation, archive, digest }) => [generation, archive, digest.toString("hex")]);
  return JSON.stringify([session.last_seq, session.chain.toString("hex"), snapshots]);
}
