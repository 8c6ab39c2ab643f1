// The journal's changes of a session (server/journal/turns.ts; server/runners/report.ts, lost-turns.ts), over the
// simulated tables. What is decided is decided by the rules; here is only what is written.
import { create } from "@bufbuild/protobuf";
import { type EventPayload, EventPayloadSchema } from "../../../gen/carrel/v1/event_pb.ts";
import type { CallNews } from "../../../server/runners/rules.ts";
import type { Rules } from "./rules.ts";
import { Refusal } from "./scheduler.ts";
import { append, type Change, closePause, command, deleteCommands, type LoggedEvent, openPauses, set } from "./tables.ts";
import type { SpooledEvent } from "./world.ts";

export type Accepted = { seq: number; queued: boolean };

export function acceptPrompt(rules: Rules, change: Change, requestId: string): Accepted {
  const queued = rules.placeOfPrompt(change.row).position > 0;
  const seq = append(change, "user", requestId);
  const isPutAway = change.row.state === "dormant";
  if ((rules.order.wakeOnPrompt || !isPutAway) && rules.isWokenByPrompt(change.row)) wake(rules, change);
  if (rules.placeOfPrompt(change.row).starts) startTurn(rules, change, seq);
  else {
    change.also.push(() => change.tables.queue.push(seq));
    set(change, { queued_prompts: change.row.queued_prompts + 1 });
  }
  return { seq, queued };
}

export function wake(rules: Rules, change: Change): void {
  const woken = rules.wakened(change.row, change.now);
  set(change, woken);
  if (woken.state === "running") goOn(rules, change);
}

/** What a session does first whose agent was stopped to put it away. */
export function goOn(rules: Rules, change: Change): void {
  if (change.row.turn === 0) startNextTurn(rules, change);
  else askAgain(rules, change);
}

/** Lets a new agent go on with a turn that waited for people. */
function askAgain(rules: Rules, change: Change): void {
  if (rules.order.closeBeforeAskingAgain) closePauses(change, "superseded");
  append(change, "system", "asking_again");
  command(change, { kind: "prompt", seq: change.row.turn, isAgain: true });
}

/** Stops the turn under way; without an agent to be told, it ends here. */
export function interruptTurn(rules: Rules, change: Change): void {
  const { row } = change;
  if (rules.isAsleep(row)) return finishTurn(rules, change, "interrupted");
  command(change, { kind: "interrupt", turn: row.turn });
  append(change, "system", "interrupting");
  set(change, { turn_acted: true });
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

export function finishTurn(rules: Rules, change: Change, how: string, runnerSeq: number | null = null, saidIn = 0): void {
  closePauses(change, "interrupted");
  append(change, "result", how, runnerSeq, saidIn);
  set(change, rules.turnFinished(change.row, change.now));
  if (change.row.one_shot) set(change, rules.wishToEnd(change.row, how === "success" ? "completed" : "failed") ?? {});
  if (change.row.queued_prompts > 0 && rules.order.wakeAfterTurn) wake(rules, change);
  startNextTurn(rules, change);
}

export function closePauses(change: Change, outcome: string): void {
  for (const pause of openPauses(change)) {
    closePause(change, pause, { outcome });
    set(change, { pending_count: change.row.pending_count - 1, active_at: change.now });
    append(change, "approvalResolved", pause.call);
  }
}

/** What a runner says becomes part of the log, once. */
export function report(rules: Rules, change: Change, firstRunnerSeq: number, events: readonly SpooledEvent[]): void {
  const place = rules.alreadyCommitted(change.row.last_runner_seq, firstRunnerSeq, events.length);
  if ("expected" in place) throw new Refusal("SEQUENCE_GAP");
  for (let index = place.skip; index < events.length; index += 1) {
    const { kind, about, saidIn } = events[index]!;
    const runnerSeq = firstRunnerSeq + index;
    if (kind === "result" && change.row.turn > 0) finishTurn(rules, change, about, runnerSeq, saidIn);
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
  const fate = rules.fateOfTurn(change.row, isOnlyWaiting(rules, change));
  if (fate === "kept") return;
  if (fate === "asked_again") return askAgain(rules, change);
  closePauses(change, "superseded");
  if (fate === "repeated") return command(change, { kind: "prompt", seq: change.row.turn, isAgain: false });
  if (fate !== "interrupted") return;
  append(change, "system", "turn_interrupted");
  finishTurn(rules, change, "lost");
}

/** Whether the turn waits for people and for nothing else, by its log. */
export function isOnlyWaiting(rules: Rules, change: Change): boolean {
  const { tables, row } = change;
  if (!rules.waitsForPeople(row)) return false;
  const unfinished = new Set<string>();
  for (let index = row.turn; index < tables.log.length; index += 1) {
    const event = tables.log[index]!;
    rules.followCalls(unfinished, row.turn, { turn: event.turn, news: newsOf(event) });
  }
  return rules.onlyWaits(row, unfinished, openPauses(change));
}

function newsOf({ kind, about }: LoggedEvent): CallNews["news"] {
  if (kind === "toolUse") return { begun: about };
  if (kind === "toolResult") return { done: about };
  if (kind !== "system") return undefined;
  return about === "asking_again" ? "agent_replaced" : about === "interrupting" ? "interrupted" : undefined;
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
