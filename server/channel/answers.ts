import type { JsonObject } from "@bufbuild/protobuf";
import { ApprovalScope, PendingOutcome } from "../../gen/carrel/v1/approval_pb.ts";
import type { AnswerApprovalRequest, AnswerQuestionRequest } from "../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { notFound, refusal } from "../errors.ts";
import type { Change } from "../journal/journal.ts";
import { type DecisionInit, openApproval, openQuestion, resolvePause } from "../journal/pauses.ts";
import { findPause, type PauseRow, type SessionCore } from "../journal/store.ts";

export type AnswerRules = {
  /** What the permission engine says of a call in this session. */
  verdict(session: SessionCore, toolName: string, input: JsonObject): { behavior: "allow" | "ask" } | { behavior: "deny"; message: string };
  /** The pattern that covers this call and its like; undefined when none safely does. */
  derive(toolName: string, input: JsonObject): string | undefined;
  matches(pattern: string, toolName: string, input: JsonObject): boolean;
};

const defaultDenial = "The user denied this tool call.";

/** Answers an approval inside a change. What was asked is what runs, unless the person edited it. */
export async function answerApproval(change: Change, request: AnswerApprovalRequest, answeredBy: string, rules: AnswerRules) {
  const pause = await openPause(change, "approval", request.toolUseId);
  const asked = openApproval(change.vault, pause);
  checkEdit(change.session, asked.toolName, request, rules);
  const pattern = request.approved ? keptPattern(request, asked.toolName, asked.toolInput ?? {}, rules) : "";
  const message = request.approved ? "" : request.message || defaultDenial;
  const decision = {
    toolUseId: pause.id,
    allow: request.approved,
    message,
    ...(request.approved && request.updatedInput ? { updatedInput: request.updatedInput } : {}),
  };
  await claim(change, pause, request.approved ? "approved" : "denied", answeredBy, decision);
  if (pattern && !change.session.session_patterns.includes(pattern))
    change.set({ session_patterns: [...change.session.session_patterns, pattern] });
  change.command({ case: "toolDecision", value: decision });
  const seq = change.append({
    case: "toolApprovalResolved",
    value: {
      toolUseId: pause.id,
      outcome: request.approved ? PendingOutcome.APPROVED : PendingOutcome.DENIED,
      scope: pattern ? ApprovalScope.SESSION : ApprovalScope.ONCE,
      pattern,
      message,
      answeredBy,
      ...(request.approved && request.updatedInput ? { updatedInput: request.updatedInput } : {}),
    },
  });
  return { pattern, seq };
}

/** Answers a question inside a change: the agent gets its own input back with the answers by question. */
export async function answerQuestion(change: Change, request: AnswerQuestionRequest, answeredBy: string) {
  const pause = await openPause(change, "question", request.questionId);
  const asked = openQuestion(change.vault, pause);
  const answers = answersByQuestion(asked.questions, request.answers);
  const decision = { toolUseId: pause.id, allow: true, updatedInput: { answers } };
  await claim(change, pause, "approved", answeredBy, decision);
  change.command({ case: "toolDecision", value: decision });
  const seq = change.append({
    case: "questionResolved",
    value: { questionId: pause.id, outcome: PendingOutcome.APPROVED, answers: request.answers, answeredBy },
  });
  return { seq };
}

/** Keys may be headers or sentences; the agent knows only sentences. An answer to nothing that was asked is refused. */
function answersByQuestion(
  asked: readonly { question: string; header: string }[],
  answers: Record<string, string>,
): Record<string, string> {
  return Object.fromEntries(
    Object.entries(answers).map(([key, answer]) => {
      const item = asked.find(({ header }) => header === key) ?? asked.find(({ question }) => question === key);
      if (!item) throw refusal(ErrorReason.INVALID_ARGUMENT, `answers: "${key}" was not asked`, { field: "answers", key });
      return [item.question, answer];
    }),
  );
}

function keptPattern(request: AnswerApprovalRequest, toolName: string, input: JsonObject, rules: AnswerRules): string {
  if (request.approvalScope !== ApprovalScope.SESSION) return "";
  const wanted = request.approvalPattern;
  if (!wanted) return rules.derive(toolName, input) ?? "";
  if (rules.matches(wanted, toolName, input)) return wanted;
  throw refusal(ErrorReason.PATTERN_MISMATCH, `approval_pattern "${wanted}" does not match the call it answers`, { pattern: wanted });
}

/** A denial wins over a person's edit as it wins over everything. */
function checkEdit(session: SessionCore, toolName: string, request: AnswerApprovalRequest, rules: AnswerRules): void {
  if (!request.approved || !request.updatedInput) return;
  const verdict = rules.verdict(session, toolName, request.updatedInput);
  if (verdict.behavior === "deny")
    throw refusal(ErrorReason.PERMISSION_DENIED, `updated_input: ${verdict.message}`, { field: "updated_input" });
}

async function openPause(change: Change, kind: PauseRow["kind"], id: string): Promise<PauseRow> {
  const pause = await findPause(change.tx, change.session.id, id);
  if (pause?.kind !== kind) throw notFound(kind);
  if (pause.outcome !== null) throw alreadyAnswered(pause);
  return pause;
}

async function claim(
  change: Change,
  pause: PauseRow,
  outcome: "approved" | "denied",
  answeredBy: string,
  decision: DecisionInit,
): Promise<void> {
  if (!(await resolvePause(change, pause, outcome, answeredBy, decision))) throw alreadyAnswered(pause);
}

function alreadyAnswered(pause: PauseRow) {
  return refusal(ErrorReason.ALREADY_ANSWERED, "this was answered already", {
    outcome: pause.outcome ?? "",
    answered_by: pause.answered_by ?? "",
  });
}
