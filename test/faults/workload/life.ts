// One session from its creation to its end, driven as people do: prompts, tools, answers, rest, forks.
import { setTimeout as sleep } from "node:timers/promises";
import { PermissionMode } from "../../../gen/carrel/v1/session_pb.ts";
import { type Watcher, watch } from "../../support/watcher.ts";
import type { Operation } from "../nemesis/nemesis.ts";
import {
  answerAll,
  fork,
  hasEnded,
  hibernate,
  type Known,
  type LifeDeps,
  looksOf,
  mark,
  resume,
  talk,
  terminate,
  turnMs,
  turnsOver,
  untilDormant,
} from "./deeds.ts";

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

/** A new session. */
export async function begin(deps: LifeDeps): Promise<Life> {
  const { world, recorder, moments, name } = deps;
  const permissionMode = world.random.chance(0.4) ? PermissionMode.ACCEPT_EDITS : PermissionMode.BYPASS_PERMISSIONS;
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
  const readers = createReaders(deps, sessionId);
  const watcher = readers.follow("its first reader", 0);
  let counted = 0;
  const known: Known = { ...deps, sessionId, watcher, prompts: [], count: () => (counted += 1) };
  const forks: Life[] = [];
  const goOn = async (): Promise<void> => {
    const id = forks.length === 0 ? await fork(known) : undefined;
    if (id !== undefined) forks.push(live({ ...deps, name: `${deps.name}f` }, id));
  };
  const answering = answerAll(known);
  return {
    sessionId,
    watcher,
    forks,
    act: () => choose(known, readers, goOn)(),
    async settle() {
      await mark(known);
      await turnsOver(known);
      for (const one of forks) await one.settle();
    },
    async end() {
      for (const one of forks) await one.end();
      // Some end asleep.
      if (deps.world.random.chance(0.3) && (await hibernate(known))) await untilDormant(watcher, 3_000);
      await terminate(known);
      await readers.ended();
      await answering;
      if (deps.moments.wanted === "fork") await goOn();
      for (const one of forks) if (!hasEnded(one.watcher)) await one.end();
      deps.recorder.looks.push(...looksOf(watcher.events, sessionId));
    },
    async close() {
      await readers.stop();
      for (const one of forks) await one.close();
    },
  };
}

type Readers = ReturnType<typeof createReaders>;

function createReaders({ world, recorder }: LifeDeps, sessionId: string) {
  const all: Watcher[] = [];
  return {
    follow(name: string, afterSeq: number): Watcher {
      const one = watch(world.person, sessionId, { afterSeq });
      all.push(one);
      recorder.readers.push({ sessionId, name, afterSeq, events: one.events });
      return one;
    },
    async another(from: number): Promise<void> {
      if (all.length < 4) this.follow("a later reader", from);
    },
    async ended(): Promise<void> {
      for (const one of all) await one.ended(turnMs);
    },
    async stop(): Promise<void> {
      for (const one of all) await one.stop();
    },
  };
}

/** What the nemesis waits for, most of the time; else whatever comes to mind. */
function choose(known: Known, readers: Readers, goOn: () => Promise<void>): () => Promise<void> {
  const { random } = known.world;
  const rest = async (): Promise<void> => void (await hibernate(known));
  const wanted: Partial<Record<Operation, () => Promise<void>>> = {
    prompt: () => mark(known),
    answer: () => mark(known),
    async hibernate() {
      if (random.chance(0.6)) await turnsOver(known);
      await rest();
    },
    resume: () => resume(known),
    async fork() {
      await turnsOver(known);
      if (await hibernate(known)) await goOn();
    },
  };
  const asked = known.moments.wanted && wanted[known.moments.wanted];
  if (asked && random.chance(0.7)) return asked;
  const weighted: readonly [number, () => Promise<void>][] = [
    [5, () => mark(known)],
    [2, () => talk(known)],
    [4, rest],
    [2, () => resume(known)],
    [2, goOn],
    [2, () => sleep(random.below(500))],
    [3, () => turnsOver(known)],
    [1, () => readers.another(Math.floor(random.below(known.watcher.events.length)))],
  ];
  return random.pick(weighted.flatMap(([weight, action]) => Array<() => Promise<void>>(weight).fill(action)));
}
