// What people are asked (server/journal/pauses.ts, server/channel/answers.ts, decideTool of server/runners/service.ts), over the
// simulated tables.
import type { Rules } from "./rules.ts";
import { Refusal } from "./scheduler.ts";
import { append, type Change, closePause, command, openPauses, type Pause, set } from "./tables.ts";
import { wake } from "./turns.ts";
import { times } from "./world.ts";

export type Verdict = "allow" | "deny" | "ask";
/** `about` is what the call does: the same when it is made again under another id. */
export type AskedCall = { id: string; turn: number; about: string; isOfSubAgent: boolean };
/** Whose answer it is where nobody answered in time. */
const nobody = "nobody";

/** A runner asks whether a call may run: the answer, or undefined while a person is asked. */
export function decideTool(rules: Rules, change: Change, call: AskedCall, verdict: Verdict): boolean | undefined {
  const pause = change.tables.pauses.get(call.id);
  const standing = rules.standingOfCall(pause && { ...pause, isSameInput: true });
  if (standing === "open") return undefined;
  if (standing !== "new") return standing === "decided" && pause!.isAllowed;
  if (verdict === "deny") {
    keep(change, call, append(change, "system", `permission_denied ${call.id}`), false);
    return false;
  }
  const carried = takeCarried(rules, change, call);
  if (carried !== undefined) return carried;
  if (verdict === "allow") return true;
  keep(change, call, append(change, "approvalRequest", call.id), undefined);
  // What is idle counts from the question.
  set(change, { pending_count: change.row.pending_count + 1, active_at: change.now });
  return undefined;
}

/** The answer that a person gave to the same call while the session was put away, once. */
function takeCarried(rules: Rules, change: Change, call: AskedCall): boolean | undefined {
  const asked = (about: string, isOfSubAgent: boolean) => `${about} ${isOfSubAgent}`;
  const now = { turn: change.row.turn, asked: asked(call.about, call.isOfSubAgent) };
  const pause = [...change.tables.pauses.values()].find(({ carried, turn, about, isOfSubAgent }) =>
    rules.isAnswerTo({ carried, turn, asked: asked(about, isOfSubAgent) }, now),
  );
  if (!pause) return undefined;
  if (rules.order.dropCarried) change.also.push(() => Object.assign(pause, { carried: false }));
  keep(change, call, append(change, "system", `answer_applied ${call.id} ${pause.call}`), pause.isAllowed);
  return pause.isAllowed;
}

/** @param isAllowed undefined while it is open. */
function keep(change: Change, { id, about, isOfSubAgent }: AskedCall, seq: number, isAllowed: boolean | undefined): void {
  const { tables, row, now, also } = change;
  const isDecided = isAllowed !== undefined;
  const outcome = isDecided ? (isAllowed ? "approved" : "denied") : null;
  const place = { call: id, turn: row.turn, epoch: row.epoch, seq, about, isOfSubAgent, askedAt: now };
  const pause: Pause = { ...place, outcome, isDecided, isAllowed: isAllowed ?? false, answer: "", carried: false };
  also.push(() => tables.pauses.set(id, pause));
}

/** A person's answer; the number of its event. */
export function answerApproval(rules: Rules, change: Change, callId: string, isAllowed: boolean, answer: string): number {
  const pause = change.tables.pauses.get(callId);
  if (!pause) throw new Refusal("NOT_FOUND");
  if (!rules.isFirstAnswer(pause)) {
    if (pause.answer === answer) return pause.seq;
    throw new Refusal("ALREADY_ANSWERED");
  }
  const seq = resolve(rules, change, pause, { isAllowed, answer });
  wake(rules, change);
  return seq;
}

/** Refuses what nobody answered in time. */
export function expirePauses(rules: Rules, change: Change): void {
  for (const pause of openPauses(change)) {
    if (isUnanswered(pause, change.now.getTime())) resolve(rules, change, pause, { isAllowed: false, answer: nobody });
  }
  wake(rules, change);
}

export function isUnanswered({ outcome, askedAt }: Pause, now: number): boolean {
  return outcome === null && now - askedAt.getTime() >= times.unansweredMs;
}

/** What was decided is told to the agent, and kept for the same call asked again where there is none. */
function resolve(rules: Rules, change: Change, pause: Pause, { isAllowed, answer }: { isAllowed: boolean; answer: string }): number {
  const isAsleep = rules.isAsleep(change.row);
  const seq = append(change, "approvalResolved", pause.call);
  const outcome = isAllowed ? "approved" : "denied";
  const carried = isAsleep && rules.order.carryAnswers;
  closePause(change, pause, { outcome, isDecided: true, isAllowed, answer, seq, carried });
  set(change, { pending_count: change.row.pending_count - 1, active_at: change.now });
  if (!isAsleep) command(change, { kind: "decision", call: pause.call, isAllowed });
  return seq;
}
