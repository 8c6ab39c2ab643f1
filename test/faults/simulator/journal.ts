// What a control plane does to the tables, and whom it tells (server/journal/journal.ts, feed.ts).
import { type Gate, type Process, Refusal, type Task, tell } from "./scheduler.ts";
import { type Change, type LoggedEvent, openChange, type Row, type SessionTables } from "./tables.ts";
import { databaseNow, transaction, type World } from "./world.ts";

export type Guard = (row: Row) => void;

/** Refuses nothing: one that is gone is not found. */
export const present: Guard = () => undefined;

export type ControlPlane = {
  /** Names it and the machine whose boxes are its own. */
  readonly host: number;
  process: Process;
  memory: Memory;
  /** Asks its reconciler to look at a session now. */
  poke(sessionId: string): void;
};

/** What a control plane forgets with its process. Nothing depends on what is in it. */
export type Memory = {
  /** Rows as this process left them. */
  known: Map<string, Row>;
  leases: Map<number, { sessionId: string; epoch: number }>;
  /** Readers of a session's events in this process. */
  readers: Map<string, Set<Reader>>;
  /** Runners that follow their commands. */
  followers: Map<string, Set<Gate<void>>>;
  busy: Set<string>;
  again: Set<string>;
  putting: Map<string, number>;
  /** Model requests that are not booked yet, and sessions for which one is being booked. */
  bookings: Map<string, number>;
  booking: Set<string>;
  seeingSince: number;
  lastLook: number;
};

export type Reader = { handed: LoggedEvent[]; gate: Gate<void> };

/** Changes one session under the lock of its row; then tells whoever waits in this process, and rings the others. */
export function* change<T>(world: World, plane: ControlPlane, sessionId: string, guard: Guard, body: (change: Change) => T): Task<T> {
  let draft: Change | undefined;
  const value = (yield transaction(world, () => {
    const tables = tablesOf(world, sessionId);
    draft = openChange(tables, tables.row, databaseNow(world));
    guard(draft.row);
    const made = body(draft);
    if (!world.rules.order.publishAfterCommit) publish(world, plane, draft);
    return { value: made, changes: [draft] };
  })) as T;
  if (world.rules.order.publishAfterCommit) publish(world, plane, draft!);
  if (plane.memory.known.delete(sessionId)) remember(plane, draft!);
  return value;
}

/** The same without the lock, where nobody else has changed the session since this process did; else under the lock. */
export function* changeOptimistically<T>(
  world: World,
  plane: ControlPlane,
  sessionId: string,
  guard: Guard,
  body: (change: Change) => T,
): Task<T> {
  const known = plane.memory.known.get(sessionId);
  plane.memory.known.delete(sessionId);
  if (known) {
    let draft: Change | undefined;
    const done = (yield transaction(world, () => {
      const tables = tablesOf(world, sessionId);
      if (world.rules.order.compareVersion && tables.row.version !== known.version) return nothing;
      draft = openChange(tables, known, databaseNow(world));
      const outcome = attempt(draft, guard, body);
      return outcome ? { value: outcome, changes: [draft] } : nothing;
    })) as { value: T } | undefined;
    if (done) {
      world.checker.reach("change without the lock");
      remember(plane, draft!);
      publish(world, plane, draft!);
      return done.value;
    }
  }
  const value = yield* change(world, plane, sessionId, guard, body);
  plane.memory.known.set(sessionId, { ...tablesOf(world, sessionId).row });
  return value;
}

const nothing = { value: undefined, changes: [] };

function attempt<T>(draft: Change, guard: Guard, body: (change: Change) => T): { value: T } | undefined {
  try {
    guard(draft.row);
    return { value: body(draft) };
  } catch (error) {
    if (error instanceof Refusal) return undefined;
    throw error;
  }
}

function remember(plane: ControlPlane, { row }: Change): void {
  if (row.state !== "ended") plane.memory.known.set(row.id, { ...row });
}

export function publish(world: World, plane: ControlPlane, { row, events, commands }: Change): void {
  for (const reader of plane.memory.readers.get(row.id) ?? []) {
    if (events.length === 0) continue;
    reader.handed.push(...events);
    tell(reader.gate, undefined);
  }
  if (commands.length > 0 || row.state === "ended") ring(plane, row.id);
  for (const other of world.controlPlanes) {
    if (other !== plane && !world.random.chance(world.faults.loss)) ring(other, row.id);
  }
  const isDue = row.desired !== "run" || row.state === "requested" || row.state === "dormant";
  if (row.host === plane.host && isDue) plane.poke(row.id);
}

function ring(plane: ControlPlane, sessionId: string): void {
  for (const gate of plane.memory.followers.get(sessionId) ?? []) tell(gate, undefined);
  for (const { gate } of plane.memory.readers.get(sessionId) ?? []) tell(gate, undefined);
}

/** A session's tables, which are there as long as the session is. */
export function tablesOf(world: World, sessionId: string): SessionTables {
  const tables = world.store.sessions.get(sessionId);
  if (!tables) throw new Refusal("NOT_FOUND");
  return tables;
}

/** A row as it is, to look at; what comes of that is decided again under the lock. */
export function* readRow(world: World, sessionId: string): Task<Row> {
  return (yield transaction(world, () => ({ value: tablesOf(world, sessionId).row, changes: [] }))) as Row;
}
