// Approvals and questions: durable pauses of the agent for a person. Asked once, answered once.
import { hash } from "node:crypto";
import { create, fromBinary, type JsonObject, toBinary } from "@bufbuild/protobuf";
import {
  type Approval,
  ApprovalSchema,
  PendingOutcome,
  type Question,
  QuestionSchema,
} from "../../gen/carrel/v1/approval_pb.ts";
import type { UserVault } from "../vault/user-vault.ts";
import type { Change } from "./journal.ts";
import { openBytes, sealBytes } from "./seal.ts";
import { closePause, insertPause, listOpenPauses, type PauseRow } from "./store.ts";

export type PauseOutcome = "approved" | "denied" | "interrupted" | "superseded" | "ended";

const outcomes: Record<PauseOutcome, PendingOutcome> = {
  approved: PendingOutcome.APPROVED,
  denied: PendingOutcome.DENIED,
  interrupted: PendingOutcome.INTERRUPTED,
  superseded: PendingOutcome.SUPERSEDED,
  ended: PendingOutcome.ENDED,
};

export type AskedCall = { toolUseId: string; toolName: string; input: JsonObject; parentToolUseId: string };

/** Asks a person whether a call may run. */
export async function askApproval(change: Change, call: AskedCall): Promise<void> {
  const approval = create(ApprovalSchema, {
    toolUseId: call.toolUseId,
    toolName: call.toolName,
    toolInput: call.input,
    inputHash: inputHash(call.input),
    parentToolUseId: call.parentToolUseId,
  });
  const seq = change.append({ case: "toolApprovalRequest", value: approval });
  await insert(change, "approval", call.toolUseId, seq, toBinary(ApprovalSchema, approval), approval.inputHash);
}

/** Asks a person the agent's question. */
export async function askQuestion(change: Change, question: Question, input: JsonObject): Promise<void> {
  const seq = change.append({ case: "askUserQuestion", value: question });
  await insert(change, "question", question.questionId, seq, toBinary(QuestionSchema, question), inputHash(input));
}

/** Closes one pause; false when somebody was first. */
export async function resolvePause(change: Change, pause: PauseRow, outcome: PauseOutcome, answeredBy: string | null): Promise<boolean> {
  if (!(await closePause(change.tx, pause.session_id, pause.id, outcome, answeredBy))) return false;
  change.set({ pending_count: change.session.pending_count - 1 });
  return true;
}

/** Closes whatever waits for a person, with an event each. */
export async function closeOpenPauses(change: Change, outcome: PauseOutcome): Promise<void> {
  if (change.session.pending_count === 0) return;
  for (const pause of await listOpenPauses(change.tx, change.session.id)) {
    await resolvePause(change, pause, outcome, null);
    if (pause.kind === "approval") change.append({ case: "toolApprovalResolved", value: { toolUseId: pause.id, outcome: outcomes[outcome] } });
    else change.append({ case: "questionResolved", value: { questionId: pause.id, outcome: outcomes[outcome] } });
  }
}

export function openApproval(vault: UserVault, pause: PauseRow): Approval {
  return fromBinary(ApprovalSchema, openBytes(vault, pause.session_id, `pause/${pause.id}`, pause.request));
}

export function openQuestion(vault: UserVault, pause: PauseRow): Question {
  return fromBinary(QuestionSchema, openBytes(vault, pause.session_id, `pause/${pause.id}`, pause.request));
}

async function insert(change: Change, kind: "approval" | "question", id: string, seq: number, request: Uint8Array, hashOfInput: string): Promise<void> {
  const { session, tx, vault } = change;
  await insertPause(tx, {
    session_id: session.id,
    id,
    kind,
    epoch: session.epoch,
    seq,
    request: sealBytes(vault, session.id, `pause/${id}`, request),
    input_hash: hashOfInput,
    outcome: null,
    answered_by: null,
  });
  change.set({ pending_count: session.pending_count + 1 });
}

/** An answer is for this input and no other. Key order is part of it: the agent's own bytes are hashed. */
export function inputHash(input: JsonObject): string {
  return hash("sha256", JSON.stringify(input), "hex");
}
