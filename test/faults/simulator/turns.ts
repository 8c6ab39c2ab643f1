// The journal's changes of a session (server/journal/turns.ts, pauses.ts; server/runners/report.ts, lost-turns.ts), over the
// simulated tables. What is decided is decided by the rules; here is only what is written.
import { create } from "@bufbuild/protobuf";
import { type EventPayload, EventPayloadSchema } from "../../../gen/carrel/v1/event_pb.ts";
import type { Rules } from "./rules.ts";
import { Refusal } from "./scheduler.ts";
import { append, type Change, command, deleteCommands, openPauses, type Pause, set } from "./tables.ts";
import type { SpooledEvent } from "./world.ts";

export type Accepted = { seq: number; queued: boolean };

export function acceptPrompt(rules: Rules, change: Change, requestId: string): Accepted {
  const queued = rules.placeOfPrompt(change.row).position > 0;
  const seq = append(change, "user", requestId);
  const isPutAway = change.row.state === "dormant";
  if (rules.order.wakeOnPrompt || !isPutAway) set(change, rules.wakened(change.row, change.now));
  if (rules.placeOfPrompt(change.row).starts) startTurn(rules, change, seq);
  else {
    change.also.push(() => change.tables.queue.push(seq));
    set(change, { queued_prompts: change.row.queued_prompts + 1 });
  }
  return { seq, queued };
}

export function cancelPrompt(change: Change, seq: number): boolean {
  const { tables, row } = change;
  if (row.queued_prompts === 0 || !tables.queue.includes(seq)) return false;
  append(change, "system", `canceled ${seq}`);
  change.also.push(() => {
    tables.queue = tables.queue.filter((queued) => queued !== seq);
  });
  set(change, { queued_prompts: row.queued_prompts - 1 });
  return true;
}

export function startNextTurn(rules: Rules, change: Change): void {
  const { tables, row } = change;
  if (!rules.startsNextTurn(row)) return;
  const seq = tables.queue[tables.queue.length - row.queued_prompts]!;
  change.also.push(() => {
    tables.queue = tables.queue.filter((queued) => queued !== seq);
  });
  set(change, { queued_prompts: row.queued_prompts - 1 });
  startTurn(rules, change, seq);
}

function startTurn(rules: Rules, change: Change, seq: number): void {
  set(change, rules.turnStarted(seq, change.now));
  append(change, "turnStart", String(seq));
  command(change, { kind: "prompt", seq, isAgain: false });
}

export function finishTurn(rules: Rules, change: Change, isSuccess: boolean, runnerSeq: number | null = null, saidIn = 0): void {
  closePauses(change, "interrupted");
  append(change, "result", isSuccess ? "success" : "failure", runnerSeq, saidIn);
  set(change, rules.turnFinished(change.row, change.now));
  if (change.row.one_shot) set(change, rules.wishToEnd(change.row, isSuccess ? "completed" : "failed") ?? {});
  startNextTurn(rules, change);
}

export function closePauses(change: Change, outcome: string): void {
  for (const pause of openPauses(change)) {
    change.also.push(() => Object.assign(pause, { outcome }));
    set(change, { pending_count: change.row.pending_count - 1, active_at: change.now });
    append(change, "approvalResolved", pause.call);
  }
}

/** A runner asks whether a call may run: the answer, or undefined while a person is asked. */
export function decideTool(rules: Rules, change: Change, callId: string, verdict: "allow" | "deny" | "ask"): boolean | undefined {
  const pause = change.tables.pauses.get(callId);
  const standing = rules.standingOfCall(pause && { outcome: pause.outcome, isDecided: pause.isDecided, isSameInput: true });
  if (standing === "open") return undefined;
  if (standing !== "new") return standing === "decided" && pause!.isAllowed;
  if (verdict === "allow") return true;
  const { epoch } = change.row;
  const isDenied = verdict === "deny";
  const seq = append(change, isDenied ? "system" : "approvalRequest", callId);
  const asked: Pause = { call: callId, epoch, outcome: isDenied ? "denied" : null, isDecided: isDenied, isAllowed: false, answer: "", seq };
  change.also.push(() => change.tables.pauses.set(callId, asked));
  if (!isDenied) set(change, { pending_count: change.row.pending_count + 1 });
  return isDenied ? false : undefined;
}

/** A person's answer; the number of its event. */
export function answerApproval(rules: Rules, change: Change, callId: string, isAllowed: boolean, answer: string): number {
  const pause = change.tables.pauses.get(callId);
  if (!pause) throw new Refusal("NOT_FOUND");
  if (!rules.isFirstAnswer(pause)) {
    if (pause.answer === answer) return pause.seq;
    throw new Refusal("ALREADY_ANSWERED");
  }
  const seq = append(change, "approvalResolved", callId);
  change.also.push(() => Object.assign(pause, { outcome: isAllowed ? "approved" : "denied", isDecided: true, isAllowed, answer, seq }));
  set(change, { pending_count: change.row.pending_count - 1, active_at: change.now });
  command(change, { kind: "decision", call: callId, isAllowed });
  return seq;
}

/** What a runner says becomes part of the log, once. */
export function report(rules: Rules, change: Change, firstRunnerSeq: number, events: readonly SpooledEvent[]): void {
  const place = rules.alreadyCommitted(change.row.last_runner_seq, firstRunnerSeq, events.length);
  if ("expected" in place) throw new Refusal("SEQUENCE_GAP");
  for (let index = place.skip; index < events.length; index += 1) {
    const { kind, about, saidIn } = events[index]!;
    const runnerSeq = firstRunnerSeq + index;
    if (kind === "result" && change.row.turn > 0) finishTurn(rules, change, about === "success", runnerSeq, saidIn);
    else {
      if (isAct(rules, kind)) set(change, { turn_acted: true });
      if (change.row.turn === 0) set(change, { active_at: change.now });
      if (kind === "sdkSessionId") set(change, { sdk_session_id: about });
      append(change, kind === "result" ? "system" : kind, about, runnerSeq, saidIn);
    }
    set(change, { last_runner_seq: runnerSeq });
  }
}

/** What becomes of the turn of a lost runner. */
export function settleTurn(rules: Rules, change: Change): void {
  const waited = onlyWaited(change);
  if (rules.order.closePausesOfLost) closePauses(change, "superseded");
  const fate = rules.fateOfTurn(change.row, waited);
  const seq = change.row.turn;
  if (fate === "asked_again" || fate === "repeated") return command(change, { kind: "prompt", seq, isAgain: fate === "asked_again" });
  if (fate !== "interrupted") return;
  append(change, "system", "turn_interrupted");
  finishTurn(rules, change, false);
}

/** Whether people were asked and nothing else of the turn is unfinished. */
function onlyWaited(change: Change): boolean {
  const { tables, row } = change;
  if (row.turn === 0 || row.pending_count === 0) return false;
  const unfinished = new Set<string>();
  for (let index = row.turn; index < tables.log.length; index += 1) {
    const { kind, about } = tables.log[index]!;
    if (kind === "toolUse") unfinished.add(about);
    if (kind === "toolResult") unfinished.delete(about);
  }
  for (const { call } of openPauses(change)) unfinished.delete(call);
  return unfinished.size === 0;
}

export function forgetCommands(rules: Rules, change: Change, throughId: number): void {
  if (rules.order.deleteCommands) deleteCommands(change, throughId);
}

function isAct(rules: Rules, kind: SpooledEvent["kind"]): boolean {
  const payload = payloads[kind as keyof typeof payloads];
  return payload !== undefined && rules.isAct(payload);
}

const payloadOf = (kind: "assistant" | "toolUse" | "toolResult"): EventPayload =>
  create(EventPayloadSchema, { kind: { case: kind, value: {} } });
const payloads = { assistant: payloadOf("assistant"), toolUse: payloadOf("toolUse"), toolResult: payloadOf("toolResult") };
