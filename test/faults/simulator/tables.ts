// Postgres, as far as sessions need it: rows whose changes are whole or not at all. A row has the columns of the real table,
// so that the production's rules read it; secrets are plain numbers.
import type { SessionCore } from "../../../server/journal/store.ts";

type SameColumns = Pick<
  SessionCore,
  | "state"
  | "desired"
  | "state_since"
  | "epoch"
  | "lease_until"
  | "box"
  | "last_seq"
  | "last_runner_seq"
  | "last_command_id"
  | "acked_command_id"
  | "turn"
  | "turn_acted"
  | "turn_started_at"
  | "sdk_session_id"
  | "active_at"
  | "snapshot_generation"
  | "snapshot_at"
  | "restoring"
  | "restarts"
  | "restarts_since"
  | "failures"
  | "failing_since"
  | "retry_at"
  | "parked_at"
  | "max_budget_micros"
  | "max_turns"
  | "model_requests"
  | "one_shot"
  | "ttl_seconds"
  | "ends_at"
  | "life_left_ms"
  | "num_turns"
  | "pending_count"
  | "queued_prompts"
  | "end_reason"
  | "exit_code"
  | "created_at"
  | "started_at"
  | "terminated_at"
>;

export type Row = SameColumns & {
  id: string;
  /** The person and the control plane it belongs to. */
  owner: string;
  host: number;
  handle: number | null;
  attach_hash: number | null;
  lease_hash: number | null;
  phantom_hash: number | null;
  /** Of its model requests, in millionths of a dollar. */
  spent: number;
  turn_usage: unknown;
  /** Counts the changes, as Postgres's `xmin` tells them apart. */
  version: number;
};

export type EventKind =
  | "user"
  | "turnStart"
  | "assistant"
  | "toolUse"
  | "toolResult"
  | "system"
  | "result"
  | "sdkSessionId"
  | "approvalRequest"
  | "approvalResolved"
  | "usage"
  | "sessionEnd";

/** `about` is what the event is about: a prompt's request id, a tool call, the word of a notice. */
export type LoggedEvent = {
  seq: number;
  epoch: number;
  runnerSeq: number | null;
  /** The epoch of the runner that said it, which no real table knows; 0 for the server's own. */
  saidIn: number;
  turn: number;
  kind: EventKind;
  about: string;
};

export type Command =
  | { id: number; kind: "prompt"; seq: number; isAgain: boolean }
  | { id: number; kind: "interrupt"; turn: number }
  | { id: number; kind: "decision"; call: string; isAllowed: boolean }
  | { id: number; kind: "hibernate" | "terminate"; generation: number };
type WithoutId<T> = T extends unknown ? Omit<T, "id"> : never;
export type CommandInit = WithoutId<Command>;

export type Pause = {
  call: string;
  /** The turn of the event by which it was asked. */
  turn: number;
  /** What the call does: the same when it is asked about again under another id. */
  about: string;
  isOfSubAgent: boolean;
  askedAt: Date;
  carried: boolean;
  epoch: number;
  outcome: string | null;
  isDecided: boolean;
  isAllowed: boolean;
  answer: string;
  seq: number;
};
export type Snapshot = { generation: number; archive: string; epoch: number; seq: number };

export type SessionTables = {
  row: Row;
  log: LoggedEvent[];
  commands: Command[];
  pauses: Map<string, Pause>;
  queue: number[];
  snapshots: Snapshot[];
};

export type Store = {
  sessions: Map<string, SessionTables>;
  requestIds: Map<string, { parameters: string; answer: string }>;
  /** Until then nobody is answered: it restarts. */
  awayUntil: number;
};

/** One change of a session. Nothing of it is in the tables before it is written. */
export type Change = {
  readonly tables: SessionTables;
  readonly row: Row;
  readonly now: Date;
  readonly events: LoggedEvent[];
  readonly commands: Command[];
  /** Pauses that it closes. */
  readonly closed: Set<Pause>;
  /** What else is written with it. */
  readonly also: (() => void)[];
};

export function openChange(tables: SessionTables, row: Row, now: Date): Change {
  return { tables, row: { ...row }, now, events: [], commands: [], closed: new Set(), also: [] };
}

export function set(change: Change, values: Partial<Row>): void {
  Object.assign(change.row, values);
}

export function append(change: Change, kind: EventKind, about: string, runnerSeq: number | null = null, saidIn = 0): number {
  const { row } = change;
  row.last_seq += 1;
  change.events.push({ seq: row.last_seq, epoch: row.epoch, runnerSeq, saidIn, turn: row.turn, kind, about });
  return row.last_seq;
}

export function command(change: Change, init: CommandInit): void {
  change.row.last_command_id += 1;
  change.commands.push({ ...init, id: change.row.last_command_id } as Command);
}

export function deleteCommands({ tables, also }: Change, throughId: number): void {
  also.push(() => {
    tables.commands = tables.commands.filter(({ id }) => id > throughId);
  });
}

export function openPauses({ tables, row, closed }: Change): Pause[] {
  return row.pending_count === 0 ? [] : [...tables.pauses.values()].filter((pause) => pause.outcome === null && !closed.has(pause));
}

export function closePause({ closed, also }: Change, pause: Pause, closing: Partial<Pause>): void {
  closed.add(pause);
  also.push(() => Object.assign(pause, closing));
}

/** The commit. */
export function write(change: Change): void {
  const { tables, row, events, commands, also } = change;
  row.version += 1;
  for (const work of also) work();
  tables.row = row;
  for (const event of events) tables.log.push(event);
  for (const one of commands) tables.commands.push(one);
}
