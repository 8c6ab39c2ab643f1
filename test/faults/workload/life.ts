// One session from its creation to its end, driven as people do: prompts, tools, answers, rest, forks; every call with its
// repetition, and every turn telling what it found in the workspace.
import { setTimeout as sleep } from "node:timers/promises";
import type { Event } from "../../../gen/carrel/v1/event_pb.ts";
import { PermissionMode, SessionDetail } from "../../../gen/carrel/v1/session_pb.ts";
import { listSnapshots } from "../../../server/snapshots/store.ts";
import { repeated } from "../../support/repeated.ts";
import { ofKind, type Watcher, watch } from "../../support/watcher.ts";
import type { Moments, Operation } from "../nemesis/nemesis.ts";
import type { World } from "../world.ts";
import type { Recorder } from "./recorder.ts";

export type LifeDeps = { world: World; recorder: Recorder; moments: Moments; name: string };

export type Life = {
  sessionId: string;
  watcher: Watcher;
  /** Does one thing that a person might do next. */
  act(): Promise<void>;
  /** Waits until all prompts have had their turn, and looks at the workspace once more. */
  settle(): Promise<void>;
  end(): Promise<void>;
  /** Stops its readers, however it ended. */
  close(): Promise<void>;
  /** Those that came of it. */
  forks: Life[];
};

const turnMs = 90_000;

/** A new session. */
export async function begin(deps: LifeDeps): Promise<Life> {
  const { world, recorder, moments, name } = deps;
  const asking = world.random.chance(0.4);
  const permissionMode = asking ? PermissionMode.ACCEPT_EDITS : PermissionMode.BYPASS_PERMISSIONS;
  moments.begun("create");
  const call = { method: "CreateSession", sessionId: "", requestId: `create-${name}`, content: `${permissionMode}` };
  const made = await recorder.careful(
    call,
    () => world.person.sessions.createSession({ name, permissionMode, requestId: call.requestId }),
    ({ session }) => ({ made: session!.id }),
  );
  if (!made) throw new Error(`the session ${name} was refused: ${recorder.calls.at(-1)?.reason}`);
  return live(deps, made.session!.id);
}

function live(deps: LifeDeps, sessionId: string): Life {
  const { world, recorder, moments, name } = deps;
  const { person, random } = world;
  const watchers: Watcher[] = [];
  const follow = (reader: string, afterSeq: number): Watcher => {
    const one = watch(person, sessionId, { afterSeq });
    watchers.push(one);
    recorder.readers.push({ sessionId, name: reader, afterSeq, events: one.events });
    return one;
  };
  const watcher = follow("its first reader", 0);
  const prompts: { seq: number; marks: boolean }[] = [];
  const forks: Life[] = [];
  const answering = answerAll(deps, sessionId, watcher);
  let count = 0;

  const prompt = async (text: string, requestId: string): Promise<number | undefined> => {
    moments.begun("prompt");
    const send = () =>
      recorder.careful(
        { method: "SendPrompt", sessionId, requestId, content: text },
        () => person.channel.sendPrompt({ sessionId, requestId, text }),
        ({ seq }) => ({ seq }),
      );
    // Some clients are in a hurry and ask twice at once.
    const answers = await Promise.all(random.chance(0.3) ? [send(), send()] : [send()]);
    return answers[0]?.seq;
  };
  /** Adds a line of its own to a file, and is shown the whole of it. */
  const mark = async (): Promise<void> => {
    const id = `${name}.${(count += 1)}`;
    const text = `[[tool Bash {"command":"echo ${id} >> marks; cat marks"}]] [[text told]]`;
    const seq = await prompt(text, id);
    if (seq !== undefined) prompts.push({ seq, marks: true });
  };
  const talk = async (): Promise<void> => {
    const id = `${name}.${(count += 1)}`;
    const seq = await prompt("[[slow 12 tokens 15ms]]", id);
    if (seq !== undefined) prompts.push({ seq, marks: false });
  };
  /** Undefined when it was refused. */
  const wish = async (method: "HibernateSession" | "ResumeSession"): Promise<true | undefined> => {
    const hibernates = method === "HibernateSession";
    moments.begun(hibernates ? "hibernate" : "resume");
    return recorder.careful({ method, sessionId, requestId: "", content: "" }, async () => {
      if (hibernates) await person.sessions.hibernateSession({ sessionId });
      else await person.sessions.resumeSession({ sessionId });
      return true as const;
    });
  };
  const untilDormant = async (patienceMs: number): Promise<boolean> => {
    const giveUpAt = performance.now() + patienceMs;
    while (performance.now() < giveUpAt) {
      if (lastDetail(watcher) === SessionDetail.DORMANT) return true;
      await sleep(50);
    }
    return false;
  };
  const fork = async (): Promise<void> => {
    if (forks.length > 0 || (lastKind(watcher) !== "sessionEnd" && !(await untilDormant(8_000)))) return;
    const requestId = `fork-${name}-${(count += 1)}`;
    const untouched = await digestOf(world, sessionId);
    moments.begun("fork");
    const made = await recorder.careful(
      { method: "ForkSession", sessionId, requestId, content: "" },
      () => person.sessions.forkSession({ sessionId, requestId }),
      ({ session }) => ({ made: session!.id }),
    );
    if (!made?.session) return;
    recorder.forks.push({ sourceId: sessionId, before: untouched, after: await digestOf(world, sessionId) });
    // What the fork finds has to go on from what its source had found there.
    const before = looksOf(watcher.events, sessionId).findLast(({ turn }) => turn <= made.session!.forkedAtSeq);
    if (before) recorder.looks.push({ sessionId: made.session.id, turn: 0, lines: before.lines });
    forks.push(live({ ...deps, name: `${name}f` }, made.session.id));
  };
  const turnsOver = async (): Promise<void> => {
    for (const { seq } of prompts) await watcher.until(({ turn, payload }) => turn === seq && payload?.kind.case === "result", turnMs);
  };
  const actions: readonly [number, () => Promise<void>][] = [
    [5, mark],
    [2, talk],
    [4, async () => void (await wish("HibernateSession"))],
    [2, async () => void (await wish("ResumeSession"))],
    [2, fork],
    [2, () => sleep(random.below(500))],
    [3, turnsOver],
    [1, async () => void (watchers.length < 4 && follow("a later reader", Math.floor(random.below(watcher.events.length))))],
  ];
  const wanted: Partial<Record<Operation, () => Promise<void>>> = {
    prompt: mark,
    answer: mark,
    async hibernate() {
      if (random.chance(0.6)) await turnsOver();
      await wish("HibernateSession");
    },
    resume: async () => void (await wish("ResumeSession")),
    async fork() {
      await turnsOver();
      if (await wish("HibernateSession")) await fork();
    },
  };
  return {
    sessionId,
    watcher,
    forks,
    async close() {
      for (const one of watchers) await one.stop();
      for (const one of forks) await one.close();
    },
    async act() {
      const asked = moments.wanted && wanted[moments.wanted];
      if (asked && random.chance(0.7)) return asked();
      const weighted = actions.flatMap(([weight, action]) => Array<() => Promise<void>>(weight).fill(action));
      await random.pick(weighted)();
    },
    async settle() {
      await mark();
      await turnsOver();
      for (const one of forks) await one.settle();
    },
    async end() {
      for (const one of forks) await one.end();
      // Some end asleep.
      if (random.chance(0.3) && (await wish("HibernateSession"))) await untilDormant(3_000);
      moments.begun("terminate");
      await recorder.careful({ method: "TerminateSession", sessionId, requestId: "", content: "" }, () =>
        person.sessions.terminateSession({ sessionId }),
      );
      for (const one of watchers) await one.ended(turnMs);
      await answering;
      if (moments.wanted === "fork") await fork();
      for (const one of forks.filter(({ watcher: theirs }) => lastKind(theirs) !== "sessionEnd")) await one.end();
      recorder.looks.push(...looksOf(watcher.events, sessionId));
    },
  };
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

function lastKind({ events }: Watcher): string | undefined {
  return events.at(-1)?.payload?.kind.case;
}

function lastDetail({ events }: Watcher): SessionDetail | undefined {
  return ofKind(events, "sessionStatus").at(-1)?.detail;
}

/** What each turn that marked the workspace found in it. */
function looksOf(events: readonly Event[], sessionId: string): Recorder["looks"] {
  return events.flatMap(({ turn, payload }) => {
    if (payload?.kind.case !== "toolResult" || payload.kind.value.isError) return [];
    const lines = [...JSON.stringify(payload.kind.value.content ?? null).matchAll(/\b[a-z]+\d+f*\.\d+\b/g)].map(([line]) => line);
    return lines.length > 0 ? [{ sessionId, turn, lines }] : [];
  });
}

/** Everything the agent asks is answered, now and then with a no, until the session has ended. */
async function answerAll({ world, recorder, moments }: LifeDeps, sessionId: string, watcher: Watcher): Promise<void> {
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
