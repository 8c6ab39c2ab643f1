import type { ColumnType, Generated, JSONColumnType } from "kysely";
import type { SandboxHandle } from "../sandbox/driver.ts";
import type { StartMarks } from "./start-phases.ts";

type Bytes = ColumnType<Buffer, Uint8Array, Uint8Array>;
type NullableBytes = ColumnType<Buffer | null, Uint8Array | null, Uint8Array | null>;

/**
 * What the store holds of a session's life. `requested` has no sandbox yet, `starting` waits for its runner to attach and to
 * bring back what was put away, `hibernating` for its snapshot; `dormant` has a snapshot and nothing else.
 */
export type SessionState = "requested" | "starting" | "running" | "hibernating" | "dormant" | "ending" | "ended";

/** Tokens and their cost; `cost_micros` is millionths of a US dollar. */
export type UsageTally = {
  input_tokens: number;
  output_tokens: number;
  cache_creation_input_tokens: number;
  cache_read_input_tokens: number;
  cost_micros: number;
};

export const noUsage: Readonly<UsageTally> = Object.freeze({
  input_tokens: 0,
  output_tokens: 0,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: 0,
  cost_micros: 0,
});

export type SessionTable = {
  id: string;
  owner_id: string;
  name: string;
  state: SessionState;
  /** What the reconciler drives at. `erase` is what became of all sessions of a person who has left: nothing of them is to stay. */
  desired: "run" | "hibernate" | "end" | "erase";
  state_since: Generated<Date>;
  epoch: Generated<number>;
  lease_until: Date | null;
  attach_hash: NullableBytes;
  lease_hash: NullableBytes;
  phantom_hash: NullableBytes;
  /** Names the files and the socket of its sandboxes, which keep them from one epoch to the next; null before the first. */
  box: string | null;
  handle: ColumnType<SandboxHandle | null, string | null | undefined, string | null>;
  last_seq: Generated<number>;
  chain: Bytes;
  last_runner_seq: Generated<number>;
  last_command_id: Generated<number>;
  acked_command_id: Generated<number>;
  turn: Generated<number>;
  turn_acted: Generated<boolean>;
  turn_started_at: Date | null;
  sdk_session_id: string | null;
  /** When the agent last finished something; what is idle counts from here. */
  active_at: Generated<Date>;
  /** The current snapshot; null where there is none, or no longer. */
  snapshot_generation: number | null;
  snapshot_at: Date | null;
  /** Whether its sandbox is still to be given what the snapshot holds: until then its files are nobody's work. */
  restoring: Generated<boolean>;
  /** The session it was forked from, which may be gone since, and the last event of that one it carries. */
  forked_from: string | null;
  forked_at_seq: number | null;
  restarts: Generated<number>;
  restarts_since: Date | null;
  /** Steps towards what is wanted now that failed in a row. */
  failures: Generated<number>;
  /** When the first of them failed; null where none has. */
  failing_since: Date | null;
  /** When the next one is tried; null where none has failed, or none is tried any more. */
  retry_at: Date | null;
  /** Since when it is left alone until somebody asks for it; `error_message` says why. Null while it is not. */
  parked_at: Date | null;
  /** How its last start went on; null before the first. */
  start_marks: ColumnType<StartMarks | null, string | null | undefined, string | null>;
  model: string;
  permission_mode: string;
  allowed_tools: string[];
  denied_tools: string[];
  session_patterns: Generated<string[]>;
  /** The profile it was created from; it may have changed or gone since. */
  profile_id: Generated<string>;
  /** The sealed environment and tool servers; null when both are empty. */
  settings: NullableBytes;
  allowed_hosts: Generated<string[]>;
  max_turns: number | null;
  max_budget_micros: number | null;
  one_shot: Generated<boolean>;
  ttl_seconds: number | null;
  /** When its lifetime is over; null while nothing limits it. */
  ends_at: Date | null;
  /** What was left of its lifetime when it was put away: only running time counts. Null while it is awake. */
  life_left_ms: number | null;
  /** The installation that looks after it. */
  host: Generated<string>;
  /** Model round trips of the agent itself, without its sub-agents'. */
  model_requests: Generated<number>;
  initial_prompt: NullableBytes;
  usage: JSONColumnType<UsageTally>;
  turn_usage: JSONColumnType<UsageTally>;
  num_turns: Generated<number>;
  pending_count: Generated<number>;
  queued_prompts: Generated<number>;
  end_reason: string | null;
  exit_code: number | null;
  error_message: NullableBytes;
  created_at: Generated<Date>;
  started_at: Date | null;
  terminated_at: Date | null;
};

export type EventTable = {
  session_id: string;
  seq: number;
  epoch: number;
  /** The runner's own number in its epoch; null for events of the server. */
  runner_seq: number | null;
  turn: number;
  created_at: Date;
  payload: Bytes;
  /** SHA-256 over the chain before, the number and the sealed payload: shows loss and alteration. */
  chain: Bytes;
};

export type QueuedPromptTable = {
  session_id: string;
  seq: number;
  /** The event that says that it was taken back; null while it waits. Kept, so that taking it back again gets the same answer. */
  canceled_seq: number | null;
};

export type CommandTable = { session_id: string; id: number; payload: Bytes };

export type PauseTable = {
  session_id: string;
  id: string;
  kind: "approval" | "question";
  epoch: number;
  seq: number;
  request: Bytes;
  outcome: string | null;
  /** The sealed decision the runner was given; null while open, and where nobody decided. */
  decision: NullableBytes;
  answered_by: string | null;
  /** The sealed hash of who answered what, with the answer they got; null where no person did. */
  answer: NullableBytes;
  /** Decided while no agent was there to be told: it counts for the same call asked again in the same turn, once. */
  carried: Generated<boolean>;
  created_at: Generated<Date>;
};

export type SnapshotTable = {
  session_id: string;
  /** Counts from 1 in each session; a larger one is newer. */
  generation: number;
  epoch: number;
  /** The snapshot it is an increment to; null for one that holds everything. */
  base_generation: number | null;
  /** The name of its sealed archive among the blobs. */
  archive: string;
  /** The last event of the log when it was made. */
  seq: number;
  /** The agent's own id of the conversation in it; empty before its first turn. */
  conversation: string;
  bytes: number;
  /** SHA-256 of the archive as it is kept. */
  digest: Bytes;
  created_at: Generated<Date>;
};

export type JournalTables = {
  session: SessionTable;
  event: EventTable;
  queued_prompt: QueuedPromptTable;
  command: CommandTable;
  pause: PauseTable;
  snapshot: SnapshotTable;
};
