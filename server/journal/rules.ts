// What may happen to a turn, a prompt, an end and an answer, decided from a session's row alone. The changes that carry it
// out are beside this file; the simulator of the tests runs these same rules.
import type { SessionCore } from "./store.ts";
import { noUsage } from "./tables.ts";

type Row = Readonly<SessionCore>;

type Work = Pick<Row, "turn" | "pending_count" | "queued_prompts">;

/** Whether a turn has come to where only people can help it on. */
export function waitsForPeople({ turn, pending_count }: Pick<Row, "turn" | "pending_count">): boolean {
  return turn > 0 && pending_count > 0;
}

/** Whether something goes on in a session that keeps it awake. */
export function isOccupied(session: Work): boolean {
  return !waitsForPeople(session) && (session.turn > 0 || session.pending_count > 0 || session.queued_prompts > 0);
}

/** Whether a session has no agent that could be told anything: put away, on its way there, or not quite back. */
export function isAsleep({ state, restoring }: Pick<Row, "state" | "restoring">): boolean {
  return state === "hibernating" || state === "dormant" || restoring;
}

/**
 * Whether an answer that was kept because no agent was there to be told is for a call as it is asked now: the same call once
 * more, of the same turn. `asked` says what a call does; its id is another each time.
 */
export function isAnswerTo(kept: { carried: boolean; turn: number; asked: string }, call: { turn: number; asked: string }): boolean {
  return kept.carried && kept.turn === call.turn && kept.asked === call.asked;
}

/** Where a prompt that comes now stands: behind how many others, and whether its turn begins at once. */
export function placeOfPrompt(session: Pick<Row, "turn" | "queued_prompts" | "state" | "desired">): { position: number; starts: boolean } {
  const position = (session.turn > 0 ? 1 : 0) + session.queued_prompts;
  return { position, starts: position === 0 && isReadyForTurn(session) };
}

/** Whether the oldest prompt of the queue may begin now. */
export function startsNextTurn(session: Pick<Row, "turn" | "queued_prompts" | "state" | "desired">): boolean {
  return session.queued_prompts > 0 && session.turn === 0 && isReadyForTurn(session);
}

function isReadyForTurn(session: Pick<Row, "state" | "desired">): boolean {
  return session.state === "running" && session.desired === "run";
}

/** Whether a session is left alone, because its steps failed too often, until somebody asks for it. */
export function isParked({ parked_at }: Pick<Row, "parked_at">): boolean {
  return parked_at !== null;
}

/**
 * Whether a prompt wakes a session. Behind a turn that waits for a person it could not begin, and what was asked would only be
 * asked once more; but who is parked waits for any word.
 */
export function isWokenByPrompt(session: Pick<Row, "turn" | "pending_count" | "parked_at">): boolean {
  return isParked(session) || !waitsForPeople(session);
}

/** Whether a session is to end because it sleeps, or is parked, and nobody has asked for it for `retentionMs`. */
export function isForgotten(
  session: Pick<Row, "state" | "desired" | "state_since" | "parked_at">,
  now: Date,
  retentionMs: number,
): boolean {
  const { state, desired, state_since, parked_at } = session;
  const since = parked_at ?? (state === "dormant" && desired === "hibernate" ? state_since : null);
  return since !== null && state !== "ended" && now.getTime() - since.getTime() >= retentionMs;
}

/** What it takes to try again as if nothing had failed; nothing where nothing has to be taken back. */
export function unparked(session: Pick<Row, "parked_at">) {
  return isParked(session) ? { ...afresh, error_message: null } : undefined;
}

/** Failures count towards one wish. */
export const afresh = { failures: 0, failing_since: null, retry_at: null, parked_at: null };

/** A session with something to do is wanted awake; one that is just being put away goes on at once. */
export function wakened(session: Pick<Row, "state" | "desired" | "parked_at">, now: Date) {
  const { state, desired } = session;
  const wanted = desired === "hibernate" ? ("run" as const) : desired;
  return {
    desired: wanted,
    ...(wanted === desired ? undefined : afresh),
    ...unparked(session),
    ...(state === "hibernating" && wanted === "run" ? { state: "running" as const, state_since: now, active_at: now } : undefined),
  };
}

/** Somebody wants a session put away: what failed before is tried again at once. */
export function wishToRest(session: Pick<Row, "parked_at">) {
  return { desired: "hibernate" as const, ...afresh, ...unparked(session) };
}

/** @param seq the prompt's number. */
export function turnStarted(seq: number, now: Date) {
  return { turn: seq, turn_acted: false, turn_started_at: now, turn_usage: noUsage };
}

export function turnFinished(session: Pick<Row, "num_turns">, now: Date) {
  return { turn: 0, turn_acted: false, turn_started_at: null, turn_usage: noUsage, num_turns: session.num_turns + 1, active_at: now };
}

/** The wish to end; undefined where somebody has wished it before: the first reason wins. */
export function wishToEnd<Reason extends string>(session: Pick<Row, "desired">, reason: Reason) {
  return session.desired === "end" ? undefined : { desired: "end" as const, end_reason: reason, ...afresh };
}

/** How a call that is asked about stands, by what is kept of its being asked before. */
export type Standing = "new" | "other_input" | "open" | "nobody_answered" | "decided";

/** What `standingOfCall` knows of a call that was asked about before. */
export type AskedBefore = { outcome: string | null; isDecided: boolean; isSameInput: boolean; carried: boolean };

/**
 * An answer is for the input it was asked about and no other. One that is kept for the same call asked again is not told to the
 * agent that asked first, which is stopped or about to be: the call would run twice.
 */
export function standingOfCall(pause: AskedBefore | undefined): Standing {
  if (!pause) return "new";
  if (!pause.isSameInput) return "other_input";
  if (pause.outcome === null || pause.carried) return "open";
  return pause.isDecided ? "decided" : "nobody_answered";
}
