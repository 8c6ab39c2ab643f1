// What each step makes of a session's row, without tokens and other secrets. Pure: the simulator of the tests runs the same.
import type { SessionCore } from "../journal/store.ts";

type Row = Readonly<SessionCore>;

/** A new epoch whose runner has `startupTimeoutMs` to attach. */
export function launched(session: Pick<Row, "epoch">, now: Date, startupTimeoutMs: number) {
  return {
    epoch: session.epoch + 1,
    state: "starting" as const,
    state_since: now,
    lease_hash: null,
    lease_until: later(now, startupTimeoutMs),
  };
}

/**
 * Its sandbox could not be started, and none is left over: it is where it was before, but for the epoch. A runner may have
 * attached before its start came to nothing, and its last word may still arrive.
 */
export function unlaunched(session: Pick<Row, "epoch">, now: Date) {
  return {
    epoch: session.epoch + 1,
    state: "requested" as const,
    state_since: now,
    attach_hash: null,
    lease_hash: null,
    phantom_hash: null,
    lease_until: null,
  };
}

/** Its steps failed too often. */
export function parked(failures: number, now: Date) {
  return { failures, retry_at: null, parked_at: now };
}

/**
 * A runner has its lease; it numbers its events from 1. Where files are to be brought back first the session does not run yet.
 * @param maxSessionMs the platform's maximum of running time, which begins with the first start.
 */
export function attached(
  session: Pick<Row, "started_at" | "restoring" | "snapshot_generation" | "ends_at">,
  now: Date,
  { staleMs, maxSessionMs }: { staleMs: number; maxSessionMs: number },
) {
  const lease = { attach_hash: null, lease_until: later(now, staleMs), started_at: session.started_at ?? now, last_runner_seq: 0 };
  if (isToBeRestored(session)) return lease;
  const isFirst = session.started_at === null;
  const ends = isFirst ? { ends_at: earlier(later(now, maxSessionMs), session.ends_at) } : {};
  return { ...lease, state: "running" as const, state_since: now, active_at: now, ...ends };
}

/** Whether a snapshot is to be brought back before anything else. */
export function isToBeRestored(session: Pick<Row, "restoring" | "snapshot_generation">): boolean {
  return session.restoring && session.snapshot_generation !== null;
}

/** The runner is lost: nothing of its epoch is taken any more. */
export function recovered(
  session: Pick<Row, "epoch" | "desired" | "restarts" | "restarts_since" | "last_command_id">,
  now: Date,
  restartWindowMs: number,
) {
  const since = session.restarts_since;
  const isFresh = since === null || now.getTime() - since.getTime() >= restartWindowMs;
  return {
    epoch: session.epoch + 1,
    state: "requested" as const,
    state_since: now,
    handle: null,
    desired: session.desired === "hibernate" ? ("run" as const) : session.desired,
    attach_hash: null,
    lease_hash: null,
    phantom_hash: null,
    restarts: isFresh ? 1 : session.restarts + 1,
    restarts_since: isFresh ? now : since,
    acked_command_id: session.last_command_id,
  };
}

/** Waits for its snapshot. */
export function hibernating(now: Date) {
  return { desired: "hibernate" as const, state: "hibernating" as const, state_since: now };
}

/** Something is at work beside what waits for people: the next idle time looks again. */
export function puttingOff(now: Date) {
  return { desired: "run" as const, active_at: now };
}

/** Goes on as if nobody had wanted to put it away; an end that is wanted stays wanted. */
export function keptAwake(session: Pick<Row, "desired">, now: Date) {
  return {
    desired: session.desired === "end" ? session.desired : ("run" as const),
    state: "running" as const,
    state_since: now,
    active_at: now,
  };
}

/** What the session looks like once its snapshot holds all of it. Its sandbox is still there, and worth nothing. */
export function dormant(
  session: Pick<Row, "restoring" | "ends_at" | "life_left_ms" | "last_command_id" | "ttl_seconds" | "created_at">,
  now: Date,
) {
  // While it was brought back nothing of its lifetime was used, and what was left is still written down.
  const left = session.restoring || session.ends_at === null ? session.life_left_ms : session.ends_at.getTime() - now.getTime();
  return {
    state: "dormant" as const,
    state_since: now,
    acked_command_id: session.last_command_id,
    lease_hash: null,
    attach_hash: null,
    phantom_hash: null,
    lease_until: null,
    restoring: false,
    life_left_ms: left === null ? null : Math.max(0, left),
    ends_at: session.ttl_seconds === null ? null : later(session.created_at, session.ttl_seconds * 1000),
  };
}

/** Could not be brought back: parked, unless it is to end. */
export function notRestored({ desired }: Pick<Row, "desired">, now: Date) {
  return desired === "end" ? { desired } : { desired: "hibernate" as const, parked_at: now };
}

/** A new sandbox is wanted, which is given the snapshot before anything else. */
export function woken(now: Date) {
  return { state: "requested" as const, state_since: now, restoring: true };
}

/** What the snapshot holds is back: only now the session runs, and its lifetime goes on. */
export function restored(session: Pick<Row, "life_left_ms" | "ends_at">, now: Date, maxSessionMs: number) {
  return {
    restoring: false,
    restarts: 0,
    state: "running" as const,
    state_since: now,
    active_at: now,
    life_left_ms: null,
    ends_at: earlier(later(now, session.life_left_ms ?? maxSessionMs), session.ends_at),
  };
}

/** Was asked to leave, and has a little time to do so by itself. */
export function ending(now: Date) {
  return { state: "ending" as const, state_since: now };
}

export function ended(now: Date, exitCode: number | null) {
  return {
    state: "ended" as const,
    state_since: now,
    terminated_at: now,
    handle: null,
    attach_hash: null,
    lease_hash: null,
    phantom_hash: null,
    lease_until: null,
    exit_code: exitCode,
    queued_prompts: 0,
  };
}

function later(from: Date, milliseconds: number): Date {
  return new Date(from.getTime() + milliseconds);
}

function earlier(one: Date, other: Date | null): Date {
  return other !== null && other < one ? other : one;
}
