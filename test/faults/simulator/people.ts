// People: they make sessions, prompt, answer, put away, bring back, fork and end, through any control plane; what is not
// answered they ask again with the same request id, or give up.
import type { ControlPlane } from "./journal.ts";
import { Refusal, type Task } from "./scheduler.ts";
import * as sessions from "./sessions.ts";
import { startWatching } from "./watchers.ts";
import { call, newId, people, sleep, times, unavailable, type World } from "./world.ts";

export type Person = { name: string; sessions: string[]; prompts: { session: string; seq: number }[]; isBusy: boolean };

/** Two hands of one person act at once. */
export function startPerson(world: World, name: string): Person {
  const person: Person = { name, sessions: [], prompts: [], isBusy: true };
  for (let hands = 0; hands < 2; hands += 1) world.scheduler.spawn(people, live(world, person));
  world.scheduler.spawn(people, answerAll(world, person));
  return person;
}

type Deed = (world: World, person: Person, session: string) => Task;

const deeds: readonly [weight: number, Deed][] = [
  [10, prompt],
  [2, takeBack],
  [2, (world, _person, id) => attempt(world, (plane) => sessions.interrupt(world, plane, id))],
  [4, (world, _person, id) => attempt(world, (plane) => sessions.hibernateSession(world, plane, id))],
  [2, (world, _person, id) => attempt(world, (plane) => sessions.resumeSession(world, plane, id))],
  [1, (world, _person, id) => attempt(world, (plane) => sessions.terminateSession(world, plane, id))],
  [2, fork],
  [2, fidget],
  [4, resumeAndEnd],
  [3, loseFaith],
];
const choices = deeds.flatMap(([weight, deed]) => Array<Deed>(weight).fill(deed));

function* live(world: World, person: Person): Task {
  const { random } = world;
  while (person.isBusy) {
    yield sleep(world, random.chance(0.1) ? random.between(2_000, 12_000) : random.between(50, 1_500));
    if (!person.isBusy) return;
    const session = random.pick(person.sessions.slice(-4));
    if (session === undefined || random.chance(0.12)) {
      if (random.chance(0.3)) world.scheduler.spawn(people, create(world, person));
      yield* create(world, person);
    } else yield* random.pick(choices)(world, person, session);
  }
}

/** Whoever gives up does not know what became of it. */
function* attempt<T>(world: World, ask: (plane: ControlPlane) => Task<T>): Task<T | undefined> {
  for (;;) {
    const plane = world.random.pick(world.controlPlanes);
    try {
      return (yield call(
        world,
        () => plane.process,
        () => ask(plane),
      )) as T;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      world.checker.reach(`refused: ${error.reason}`);
      if (error.reason !== unavailable || world.random.chance(0.15)) return undefined;
      yield sleep(world, 200);
    }
  }
}

/** An answer that was given is given again: sometimes it is asked for once more. */
function* attemptOnce(world: World, requestId: string, ask: (plane: ControlPlane) => Task<string>): Task<string | undefined> {
  const answer = yield* attempt(world, ask);
  if (answer === undefined) return undefined;
  world.checker.answered(requestId, answer);
  if (!world.random.chance(0.1)) return answer;
  const again = yield* attempt(world, ask);
  if (again !== undefined) world.checker.answered(requestId, again);
  return answer;
}

function* create(world: World, person: Person): Task {
  const { random } = world;
  const requestId = newId(world, "create");
  const wanted: sessions.NewSession = {
    oneShot: random.chance(0.15),
    maxBudget: random.chance(0.2) ? random.between(3, 10) : null,
    maxTurns: random.chance(0.1) ? random.between(2, 6) : null,
    ttlSeconds: random.chance(0.15) ? random.between(10, 40) : null,
  };
  const request = { owner: person.name, requestId, parameters: "new" };
  const id = yield* attemptOnce(world, requestId, (plane) => sessions.createSession(world, plane, request, wanted));
  if (id !== undefined) know(world, person, id);
}

function* fork(world: World, person: Person, source: string): Task {
  const requestId = newId(world, "create");
  const request = { owner: person.name, requestId, parameters: source };
  const id = yield* attemptOnce(world, requestId, (plane) => sessions.forkSession(world, plane, request, source));
  if (id !== undefined) know(world, person, id);
}

function know(world: World, person: Person, id: string): void {
  if (person.sessions.includes(id)) return;
  person.sessions.push(id);
  startWatching(world, id);
}

function* prompt(world: World, person: Person, session: string): Task {
  const requestId = newId(world, "prompt");
  const request = { owner: person.name, requestId, parameters: session };
  const seq = yield* attemptOnce(world, requestId, (plane) => sessions.sendPrompt(world, plane, request, session));
  if (seq === undefined) return;
  world.checker.promptAccepted(session, requestId, Number(seq));
  person.prompts.push({ session, seq: Number(seq) });
}

function* takeBack(world: World, person: Person): Task {
  const last = person.prompts.at(-1);
  if (!last) return;
  const requestId = newId(world, "cancel");
  const request = { owner: person.name, requestId, parameters: `${last.session} ${last.seq}` };
  yield* attemptOnce(world, requestId, (plane) => sessions.takeBack(world, plane, request, last.session, last.seq));
}

/** Puts a session away, has something done after all, and puts it away again. */
function* fidget(world: World, person: Person, session: string): Task {
  const hibernate = () => attempt(world, (plane) => sessions.hibernateSession(world, plane, session));
  yield* hibernate();
  yield sleep(world, world.random.between(50, 800));
  yield* prompt(world, person, session);
  for (let tries = 0; tries < 6; tries += 1) {
    yield sleep(world, world.random.between(100, 600));
    yield* hibernate();
  }
}

function* resumeAndEnd(world: World, _person: Person, session: string): Task {
  yield* attempt(world, (plane) => sessions.resumeSession(world, plane, session));
  yield sleep(world, world.random.between(20, 700));
  yield* attempt(world, (plane) => sessions.terminateSession(world, plane, session));
}

/** Ends a session that has been on its way to rest for too long. */
function* loseFaith(world: World, _person: Person, session: string): Task {
  yield* attempt(world, (plane) => sessions.hibernateSession(world, plane, session));
  yield sleep(world, world.random.between(times.archiveTimeoutMs - 500, times.archiveTimeoutMs + 2_500));
  if (world.store.sessions.get(session)?.row.state !== "hibernating") return;
  yield* attempt(world, (plane) => sessions.terminateSession(world, plane, session));
}

/** Answers what is asked, sooner or later, sometimes in two places at once and differently. */
function* answerAll(world: World, person: Person): Task {
  const { random } = world;
  for (;;) {
    yield sleep(world, person.isBusy ? random.between(300, random.chance(0.3) ? 9_000 : 1_500) : 400);
    for (const [session, { row, pauses }] of world.store.sessions) {
      // What could not be brought back may be gone.
      if (row.owner === person.name && row.parked_at !== null && row.state !== "dormant" && !person.isBusy)
        yield* attempt(world, (plane) => sessions.resumeSession(world, plane, session));
      if (row.owner !== person.name || row.pending_count === 0) continue;
      for (const pause of pauses.values()) {
        if (pause.outcome !== null) continue;
        if (person.isBusy && random.chance(0.2)) {
          yield* attempt(world, (plane) => sessions.hibernateSession(world, plane, session));
          yield sleep(world, random.between(20, 3_000));
        }
        if (random.chance(0.3)) world.scheduler.spawn(people, answer(world, person, session, pause.call));
        yield* answer(world, person, session, pause.call);
      }
    }
  }
}

function* answer(world: World, person: Person, session: string, callId: string): Task {
  const isAllowed = world.random.chance(0.7);
  const requestId = newId(world, "answer");
  const request = { owner: person.name, requestId, parameters: callId };
  const given = yield* attempt(world, (plane) => sessions.answer(world, plane, request, session, { call: callId, isAllowed }));
  if (given !== undefined) world.checker.approvalAnswered(session, callId, isAllowed);
}
