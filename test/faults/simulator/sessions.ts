// What people ask of a control plane (server/sessions, server/channel): any of them answers for any session.
import { type ControlPlane, change, type Guard, present, publish, tablesOf } from "./journal.ts";
import { discardUnnamed, readBlob, upload } from "./object-store.ts";
import { answerApproval } from "./pauses.ts";
import { Refusal, type Task } from "./scheduler.ts";
import { append, type Change, openChange, type Row, type SessionTables, type Snapshot, set } from "./tables.ts";
import { acceptPrompt, cancelPrompt, interruptTurn, wake } from "./turns.ts";
import { type Blob, databaseNow, newId, transaction, type World } from "./world.ts";

export type Call = { owner: string; requestId: string; parameters: string };
export const concurrentSessions = 4;

const alive: Guard = (row) => {
  if (row.state === "ended" || row.desired === "end") throw new Refusal("SESSION_ENDED");
};

/** Once for each request id: a repeat gets the first answer, another content is refused. */
function once(world: World, { owner, requestId, parameters }: Call, work: () => { value: string; changes: Change[] }) {
  const { requestIds } = world.store;
  const first = requestIds.get(`${owner}/${requestId}`);
  if (first && first.parameters !== parameters) throw new Refusal("REQUEST_ID_REUSED");
  if (first) return { value: first.answer, changes: [] };
  const done = work();
  const keep = () => requestIds.set(`${owner}/${requestId}`, { parameters, answer: done.value });
  // As a planted bug: in a transaction of its own, some time later.
  return { ...done, also: world.rules.order.keepAnswerWithWork ? keep : () => world.scheduler.at(60, keep) };
}

/** Changes a live session of the caller, once for each request id. */
function* changeOnce(world: World, plane: ControlPlane, call: Call, sessionId: string, body: (one: Change) => string): Task<string> {
  let draft: Change | undefined;
  const answer = (yield transaction(world, () =>
    once(world, call, () => {
      const tables = tablesOf(world, sessionId);
      draft = openChange(tables, tables.row, databaseNow(world));
      alive(draft.row);
      return { value: body(draft), changes: [draft] };
    }),
  )) as string;
  if (draft) publish(world, plane, draft);
  return answer;
}

export function sendPrompt(world: World, plane: ControlPlane, call: Call, sessionId: string): Task<string> {
  return changeOnce(world, plane, call, sessionId, (one) => String(acceptPrompt(world.rules, one, call.requestId).seq));
}

export function takeBack(world: World, plane: ControlPlane, call: Call, sessionId: string, seq: number): Task<string> {
  return changeOnce(world, plane, call, sessionId, (one) => (cancelPrompt(one, seq) ? "canceled" : "started"));
}

export function answer(
  world: World,
  plane: ControlPlane,
  call: Call,
  sessionId: string,
  asked: { call: string; isAllowed: boolean },
): Task<string> {
  return changeOnce(world, plane, call, sessionId, (one) => {
    const content = `${call.owner} ${asked.isAllowed}`;
    return String(answerApproval(world.rules, one, asked.call, asked.isAllowed, content));
  });
}

export function* interrupt(world: World, plane: ControlPlane, sessionId: string): Task {
  yield* change(world, plane, sessionId, alive, (one) => {
    if (one.row.turn === 0) return;
    interruptTurn(world.rules, one);
  });
}

export function* hibernateSession(world: World, plane: ControlPlane, sessionId: string): Task {
  yield* change(world, plane, sessionId, alive, (one) => {
    const starts = one.row.state === "requested" || one.row.state === "starting";
    if (starts || world.rules.isOccupied(one.row)) throw new Refusal("SESSION_BUSY");
    set(one, world.rules.wishToRest(one.row));
  });
}

export function* resumeSession(world: World, plane: ControlPlane, sessionId: string): Task {
  yield* change(world, plane, sessionId, alive, (one) => wake(world.rules, one));
}

export function* terminateSession(world: World, plane: ControlPlane, sessionId: string): Task {
  yield* change(world, plane, sessionId, present, (one) => set(one, world.rules.wishToEnd(one.row, "user_requested") ?? {}));
}

export type NewSession = { oneShot: boolean; maxBudget: number | null; maxTurns: number | null; ttlSeconds: number | null };

export function* createSession(world: World, plane: ControlPlane, call: Call, wanted: NewSession): Task<string> {
  return yield* insertOnce(world, plane, call, () => {
    const made = newTables(world, plane, call.owner, wanted);
    acceptPrompt(world.rules, made, `${call.requestId} first`);
    return made;
  });
}

/** As many sessions as are allowed, counted where they are made. */
function* insertOnce(world: World, plane: ControlPlane, call: Call, make: () => Change): Task<string> {
  let draft: Change | undefined;
  if (!world.rules.order.countUnderLock) yield transaction(world, () => ({ value: admit(world, call.owner), changes: [] }));
  const id = (yield transaction(world, () =>
    once(world, call, () => {
      if (world.rules.order.countUnderLock) admit(world, call.owner);
      draft = make();
      const { tables } = draft;
      draft.also.push(() => world.store.sessions.set(tables.row.id, tables));
      return { value: tables.row.id, changes: [draft] };
    }),
  )) as string;
  if (draft) publish(world, plane, draft);
  plane.poke(id);
  return id;
}

function admit(world: World, owner: string): void {
  let count = 0;
  for (const { row } of world.store.sessions.values()) if (row.owner === owner && row.state !== "ended") count += 1;
  if (count >= concurrentSessions) throw new Refusal("SESSION_LIMIT");
}

/** A new session as if it had been put away where its source was: an archive of its own, the conversation, and nothing else. */
export function* forkSession(world: World, plane: ControlPlane, call: Call, sourceId: string): Task<string> {
  const source = (yield transaction(world, () => ({ value: tablesOf(world, sourceId), changes: [] }))) as SessionTables;
  const snapshot = source.snapshots.at(-1);
  if (source.row.state !== "dormant" && source.row.state !== "ended") throw new Refusal("NOT_FORKABLE");
  if (!snapshot) throw new Refusal("SNAPSHOT_GONE");
  const id = newId(world, "fork");
  const archive = world.rules.order.copyForFork ? yield* copy(world, plane, snapshot, id) : snapshot.archive;
  try {
    const answered = yield* insertOnce(world, plane, call, () => beginFork(world, plane, call, { id, archive, source: source.row }));
    if (answered !== id) yield* discardUnnamed(world, archive);
    return answered;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    yield* discardUnnamed(world, archive);
    throw error;
  }
}

function* copy(world: World, plane: ControlPlane, snapshot: Snapshot, id: string): Task<string> {
  const files = yield* readBlob(world, snapshot.archive);
  const archive = `${id}/${newId(world, "arc")}`;
  const madeAtMs = world.scheduler.now + plane.process.skewMs;
  const blob: Blob = { archive, session: id, generation: 1, files, isWhole: false, isDamaged: false, madeAtMs };
  yield* upload(world, blob, () => false);
  return archive;
}

type Fork = { id: string; archive: string; source: Row };

function beginFork(world: World, plane: ControlPlane, { owner, requestId }: Call, { id, archive, source }: Fork): Change {
  const one = newTables(world, plane, owner, { oneShot: false, maxBudget: null, maxTurns: null, ttlSeconds: null }, id);
  set(one, { restoring: true, snapshot_generation: 1, snapshot_at: source.snapshot_at, sdk_session_id: source.sdk_session_id });
  one.tables.snapshots.push({ generation: 1, archive, epoch: 0, seq: 0 });
  append(one, "system", `forked ${source.id}`);
  acceptPrompt(world.rules, one, `${requestId} first`);
  return one;
}

function newTables(world: World, plane: ControlPlane, owner: string, wanted: NewSession, id = newId(world, "session")): Change {
  const now = databaseNow(world);
  const row: Row = {
    ...blank(now),
    id,
    owner,
    host: plane.host,
    one_shot: wanted.oneShot,
    max_budget_micros: wanted.maxBudget,
    max_turns: wanted.maxTurns,
    ttl_seconds: wanted.ttlSeconds,
    ends_at: wanted.ttlSeconds === null ? null : new Date(now.getTime() + wanted.ttlSeconds * 1000),
  };
  const tables: SessionTables = { row, log: [], commands: [], pauses: new Map(), queue: [], snapshots: [] };
  return openChange(tables, row, now);
}

function blank(now: Date): Omit<Row, "id" | "owner" | "host" | "one_shot" | "max_budget_micros" | "max_turns" | "ttl_seconds" | "ends_at"> {
  return {
    state: "requested",
    desired: "run",
    state_since: now,
    created_at: now,
    active_at: now,
    epoch: 0,
    version: 0,
    spent: 0,
    model_requests: 0,
    last_seq: 0,
    last_runner_seq: 0,
    last_command_id: 0,
    acked_command_id: 0,
    turn: 0,
    num_turns: 0,
    pending_count: 0,
    queued_prompts: 0,
    restarts: 0,
    failures: 0,
    failing_since: null,
    retry_at: null,
    parked_at: null,
    turn_acted: false,
    restoring: false,
    lease_until: null,
    box: null,
    handle: null,
    attach_hash: null,
    lease_hash: null,
    phantom_hash: null,
    turn_started_at: null,
    turn_usage: null,
    sdk_session_id: null,
    snapshot_generation: null,
    snapshot_at: null,
    restarts_since: null,
    life_left_ms: null,
    end_reason: null,
    exit_code: null,
    started_at: null,
    terminated_at: null,
  };
}
