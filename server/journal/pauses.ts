// Approvals and questions: durable pauses of the agent for a person. Asked once, answered once.
import { hash } from "node:crypto";
import { create, fromBinary, type JsonObject, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { ToolDecisionSchema } from "../../gen/carrel/runner/v1/command_pb.ts";
import { type Approval, ApprovalSchema, PendingOutcome, type Question, QuestionSchema } from "../../gen/carrel/v1/approval_pb.ts";
import type { UserVault } from "../vault/user-vault.ts";
import type { Change } from "./journal.ts";
import { isAnswerTo, isAsleep, standingOfCall } from "./rules.ts";
import { openBytes, sealBytes } from "./seal.ts";
import { closePause, dropCarried, findPause, insertPause, listCarriedPauses, listOpenPauses, type PauseRow } from "./store.ts";

export type PauseOutcome = "approved" | "denied" | "interrupted" | "superseded" | "ended";

const outcomes: Record<PauseOutcome, PendingOutcome> = {
  approved: PendingOutcome.APPROVED,
  denied: PendingOutcome.DENIED,
  interrupted: PendingOutcome.INTERRUPTED,
  superseded: PendingOutcome.SUPERSEDED,
  ended: PendingOutcome.ENDED,
};

/** What a runner is told about a call. */
export type DecisionInit = MessageInitShape<typeof ToolDecisionSchema>;

export type AskedCall = { toolUseId: string; toolName: string; input: JsonObject; parentToolUseId: string };

/** Asks a person whether a call may run. */
export async function askApproval(change: Change, call: AskedCall): Promise<void> {
  const approval = approvalOf(call);
  const seq = change.append({ case: "toolApprovalRequest", value: approval });
  await insert(change, { kind: "approval", id: call.toolUseId, seq, request: toBinary(ApprovalSchema, approval) });
}

/** Asks a person the agent's question. */
export async function askQuestion(change: Change, question: Question): Promise<void> {
  const seq = change.append({ case: "askUserQuestion", value: question });
  await insert(change, { kind: "question", id: question.questionId, seq, request: toBinary(QuestionSchema, question) });
}

/** Keeps a refusal that no person was asked about, so that asking again gets the same answer and no second notice. */
export async function keepDenial(change: Change, call: AskedCall, seq: number, decision: DecisionInit): Promise<void> {
  const request = requestOf(call, undefined);
  await insert(change, { kind: "approval", id: call.toolUseId, seq, request, decided: { outcome: "denied", decision } });
}

/** How a call stands that may have been asked about before: "new", "open" while it waits, or what the agent is told. */
export async function standingOf(change: Change, call: AskedCall, question: Question | undefined): Promise<"new" | "open" | DecisionInit> {
  const pause = await findPause(change.tx, change.session.id, call.toolUseId);
  const isSameInput = pause !== undefined && isAskedAs(change, pause, call, question);
  const before = pause && { outcome: pause.outcome, isDecided: pause.decision !== null, isSameInput, carried: pause.carried };
  const standing = standingOfCall(before);
  if (standing === "new" || standing === "open") return standing;
  if (standing === "decided") return decisionOf(change, pause!);
  return { toolUseId: call.toolUseId, allow: false, message: refusals[standing] };
}

const refusals = {
  other_input: "This call was asked about before with another input.",
  nobody_answered: "Nobody answered this call.",
};

function isAskedAs(change: Change, pause: PauseRow, call: AskedCall, question: Question | undefined): boolean {
  return Buffer.from(requestOf(call, question)).equals(openBytes(change.vault, pause.session_id, `pause/${pause.id}`, pause.request));
}

/**
 * The answer that a person gave to the same call while the session was put away; undefined without one. It counts once, and
 * from now on for the call as it is asked now.
 */
export async function takeCarried(change: Change, call: AskedCall, question: Question | undefined): Promise<DecisionInit | undefined> {
  const { tx, session, vault } = change;
  const kind = question ? "question" : "approval";
  const asked = question ? sameQuestion(question) : sameCall(approvalOf(call));
  const askedBy = (pause: PauseRow): string => (question ? sameQuestion(openQuestion(vault, pause)) : sameCall(openApproval(vault, pause)));
  const kept = (await listCarriedPauses(tx, session.id)).filter((pause) => pause.kind === kind);
  const pause = kept.find((one) =>
    isAnswerTo({ carried: one.carried, turn: one.turn, asked: askedBy(one) }, { turn: session.turn, asked }),
  );
  if (!pause) return undefined;
  const decision = { ...decisionOf(change, pause), toolUseId: call.toolUseId };
  await dropCarried(tx, session.id, pause.id);
  const details = { tool_use_id: call.toolUseId, answered_tool_use_id: pause.id };
  const message = "the call was asked about before the session was put away, and was answered meanwhile";
  const seq = change.append({ case: "system", value: { subtype: "answer_applied", message, details } });
  await insert(change, {
    kind,
    id: call.toolUseId,
    seq,
    request: requestOf(call, question),
    decided: { outcome: pause.outcome as PauseOutcome, decision },
  });
  return decision;
}

/** A call asked again has another id; what it does is the same. */
function sameCall({ toolName, inputHash, parentToolUseId }: Approval): string {
  return JSON.stringify([toolName, inputHash, parentToolUseId]);
}

function sameQuestion({ questions }: Question): string {
  return JSON.stringify(questions.map((item) => [item.question, item.header, item.multiSelect, item.options.map(({ label }) => label)]));
}

function decisionOf({ vault }: Change, { session_id, id, decision }: PauseRow): DecisionInit {
  return fromBinary(ToolDecisionSchema, openBytes(vault, session_id, `pause/${id}/decision`, decision!));
}

/** A person's answer: who, and the bytes by which its repeat is known and answered. */
export type PersonsAnswer = { by: string; record: Uint8Array };

export type Resolving = { outcome: PauseOutcome; decision?: DecisionInit; answer?: PersonsAnswer };

/**
 * Closes one pause; false when somebody was first. What was decided is told to the agent, and kept for the same call asked
 * again where there is none: wake the session then.
 */
export async function resolvePause(change: Change, pause: PauseRow, { outcome, decision, answer }: Resolving): Promise<boolean> {
  const carried = decision !== undefined && isAsleep(change.session);
  const closing = {
    outcome,
    carried,
    answered_by: answer?.by ?? null,
    decision: decision ? sealDecision(change, pause.id, decision) : null,
    answer: answer ? sealBytes(change.vault, pause.session_id, `pause/${pause.id}/answer`, answer.record) : null,
  };
  if (!(await closePause(change.tx, pause.session_id, pause.id, closing))) return false;
  change.set({ pending_count: change.session.pending_count - 1, active_at: change.now });
  if (decision && !carried) change.command({ case: "toolDecision", value: decision });
  return true;
}

/** The record a person's answer was closed with; undefined where no person answered. */
export function answerRecord(vault: UserVault, pause: PauseRow): Uint8Array | undefined {
  return pause.answer ? openBytes(vault, pause.session_id, `pause/${pause.id}/answer`, pause.answer) : undefined;
}

/** Refuses what nobody answered in time, and tells the agent so. */
export async function expirePause(change: Change, pause: PauseRow): Promise<void> {
  const message = "Nobody answered in time.";
  const decision = { toolUseId: pause.id, allow: false, message };
  if (!(await resolvePause(change, pause, { outcome: "denied", decision }))) return;
  if (pause.kind === "question") change.append({ case: "questionResolved", value: { questionId: pause.id, outcome: outcomes.denied } });
  else change.append({ case: "toolApprovalResolved", value: { toolUseId: pause.id, outcome: outcomes.denied, message } });
}

/** Closes whatever waits for a person, with an event each. */
export async function closeOpenPauses(change: Change, outcome: PauseOutcome): Promise<void> {
  if (change.session.pending_count === 0) return;
  for (const pause of await listOpenPauses(change.tx, change.session.id)) {
    await resolvePause(change, pause, { outcome });
    if (pause.kind === "approval")
      change.append({ case: "toolApprovalResolved", value: { toolUseId: pause.id, outcome: outcomes[outcome] } });
    else change.append({ case: "questionResolved", value: { questionId: pause.id, outcome: outcomes[outcome] } });
  }
}

export function openApproval(vault: UserVault, pause: PauseRow): Approval {
  return fromBinary(ApprovalSchema, openBytes(vault, pause.session_id, `pause/${pause.id}`, pause.request));
}

export function openQuestion(vault: UserVault, pause: PauseRow): Question {
  return fromBinary(QuestionSchema, openBytes(vault, pause.session_id, `pause/${pause.id}`, pause.request));
}

type Decided = { outcome: PauseOutcome; decision: DecisionInit };
type NewPause = { kind: PauseRow["kind"]; id: string; seq: number; request: Uint8Array; decided?: Decided };

async function insert(change: Change, { kind, id, seq, request, decided }: NewPause): Promise<void> {
  const { session, tx, vault } = change;
  await insertPause(tx, {
    session_id: session.id,
    id,
    kind,
    epoch: session.epoch,
    seq,
    request: sealBytes(vault, session.id, `pause/${id}`, request),
    outcome: decided?.outcome ?? null,
    decision: decided ? sealDecision(change, id, decided.decision) : null,
    answered_by: null,
    answer: null,
  });
  // What is idle counts from the question.
  if (!decided) change.set({ pending_count: session.pending_count + 1, active_at: change.now });
}

function sealDecision({ vault, session }: Change, pauseId: string, decision: DecisionInit): Uint8Array {
  return sealBytes(vault, session.id, `pause/${pauseId}/decision`, toBinary(ToolDecisionSchema, create(ToolDecisionSchema, decision)));
}

/** What is asked, as it is kept. */
function requestOf(call: AskedCall, question: Question | undefined): Uint8Array {
  return question ? toBinary(QuestionSchema, question) : toBinary(ApprovalSchema, approvalOf(call));
}

function approvalOf(call: AskedCall): Approval {
  return create(ApprovalSchema, {
    toolUseId: call.toolUseId,
    toolName: call.toolName,
    toolInput: call.input,
    // Key order is part of it: the agent's own bytes are hashed.
    inputHash: hash("sha256", JSON.stringify(call.input), "hex"),
    parentToolUseId: call.parentToolUseId,
  });
}
