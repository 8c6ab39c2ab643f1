// What a run with faults leaves to be judged: what clients did and were told, what readers saw, what was sampled on the way, and
// what database, object store and machine hold in the end. Plain data, so that a broken history can be written down by hand.
import type { Event } from "../../../gen/carrel/v1/event_pb.ts";
import type { SessionRow } from "../../../server/journal/store.ts";
import type { LogRow } from "../../support/log-rules.ts";

/** One try of one call. `unknown`: no answer came, and it may have been carried out. `failed`: it was refused for good. */
export type Call = {
  method: string;
  /** Empty while it is not known. */
  sessionId: string;
  requestId: string;
  /** What was asked for, in one string. */
  content: string;
  outcome: "acknowledged" | "unknown" | "failed";
  /** Of the answer: the event's number, or the session that was made. */
  seq?: number;
  made?: string;
  /** Why it failed. */
  reason?: string;
};

/** What one reader was shown, from the event after `afterSeq` on and across all its reconnections. */
export type ReaderView = { sessionId: string; name: string; afterSeq: number; events: readonly Event[] };

export type SessionFacts = Pick<
  SessionRow,
  | "id"
  | "owner_id"
  | "state"
  | "end_reason"
  | "epoch"
  | "last_seq"
  | "chain"
  | "box"
  | "snapshot_generation"
  | "forked_from"
  | "max_budget_micros"
  | "max_turns"
  | "model_requests"
  | "usage"
  | "ttl_seconds"
  | "created_at"
  | "terminated_at"
> & {
  /** Hashes of what only this session may hold. */
  tokens: readonly string[];
};

export type SnapshotFacts = { generation: number; epoch: number; archive: string; bytes: number; sha256: string };

export type SessionEvidence = {
  session: SessionFacts;
  rows: readonly LogRow[];
  events: readonly Event[];
  snapshots: readonly SnapshotFacts[];
};

/** How rows and sandboxes were at one moment. */
export type Sample = {
  atMs: number;
  /** Whether no fault had been made for a while. */
  calm: boolean;
  sessions: readonly Pick<SessionRow, "id" | "state" | "epoch" | "last_seq" | "end_reason" | "snapshot_generation" | "box">[];
  /** Sandboxes with living processes, and the user of the host they run as. */
  sandboxes: readonly { box: string; uid: number | null }[];
};

/** Somebody with a right of the past tried to use it. */
export type ZombieTry = { sessionId: string; what: string; accepted: boolean };

/** The lines of a file that a session's turns only add to, as one of its turns found them. */
export type Look = { sessionId: string; turn: number; lines: readonly string[] };

export type Evidence = {
  calls: readonly Call[];
  readers: readonly ReaderView[];
  sessions: readonly SessionEvidence[];
  samples: readonly Sample[];
  /** Events that a runner was told are committed, where the test is the runner. */
  reported: readonly { sessionId: string; epoch: number; runnerSeq: number }[];
  zombies: readonly ZombieTry[];
  looks: readonly Look[];
  /** The source of a fork before and after, as one digest each of its log, its snapshots and their archives. */
  forks: readonly { sourceId: string; before: string; after: string }[];
  /** What is in the object store; `opens` is whether its owner's key opens all of it, undefined where that was not tried. */
  archives: readonly { name: string; bytes: number; sha256: string; opens?: boolean }[];
  /** Answers the model gave: those that came through whole, and all that it began. */
  provider: { whole: number; begun: number };
  profiles: readonly { ownerId: string; count: number; defaults: number }[];
  limits: { concurrentSessions: number; profiles: number };
  /** What the machine still holds of the installation, by kind; asked when every session had ended. */
  leftovers: Readonly<Record<string, readonly string[]>>;
  /** After the last fault, in milliseconds; the longest each. */
  waits: { converged: number; spools: number; readers: number; drain: number };
  /** What holds the database up for longer than two minutes, or is open when all is quiet. */
  stuck: readonly string[];
};

export const nothingHappened: Evidence = {
  calls: [],
  readers: [],
  sessions: [],
  samples: [],
  reported: [],
  zombies: [],
  looks: [],
  forks: [],
  archives: [],
  provider: { whole: 0, begun: 0 },
  profiles: [],
  limits: { concurrentSessions: 10, profiles: 10 },
  leftovers: {},
  waits: { converged: 0, spools: 0, readers: 0, drain: 0 },
  stuck: [],
};
