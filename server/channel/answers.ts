import { create, type DescMessage, fromBinary, type JsonObject, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { ApprovalScope, PendingOutcome } from "../../gen/carrel/v1/approval_pb.ts";
import {
  type AnswerApprovalRequest,
  type AnswerApprovalResponse,
  AnswerApprovalResponseSchema,
  type AnswerQuestionRequest,
  type AnswerQuestionResponse,
  AnswerQuestionResponseSchema,
} from "../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { notFound, refusal } from "../errors.ts";
import type { Change } from "../journal/journal.ts";
import { openApproval, openQuestion, type Resolving, resolvePause } from "../journal/pauses.ts";
import { findPause, type PauseRow, type SessionCore } from "../journal/store.ts";
import { wake } from "../journal/turns.ts";
import { type Answerer, firstResponse, personsAnswer } from "./repeated-answers.ts";

export type AnswerRules = {
  /** What the permission engine says of a call in this session. */
  verdict(session: SessionCore, toolName: string, input: JsonObject): { behavior: "allow" | "ask" } | { behavior: "deny"; message: string };
  /** The pattern that covers this call and its like; undefined when none safely does. */
  derive(toolName: string, input: JsonObject): string | undefined;
  matches(pattern: string, toolName: string, input: JsonObject): boolean;
};

const defaultDenial = "The user denied this tool call.";

/** Answers an approval inside a change. What was asked is what runs, unless the person edited it. */
export async function answerApproval(
  change: Change,
  request: AnswerApprovalRequest,
  who: Answerer,
  rules: AnswerRules,
): Promise<AnswerApprovalResponse> {
  const pause = await pauseOf(change, "approval", request.toolUseId);
  const content = contentOf(request);
  if (pause.outcome !== null) return again(change, pause, who, content, AnswerApprovalResponseSchema);
  const asked = openApproval(change.vault, pause);
  checkEdit(change.session, asked.toolName, request, rules);
  const pattern = request.approved ? keptPattern(request, asked.toolName, asked.toolInput ?? {}, rules) : "";
  const { message } = content;
  const edited = request.approved && request.updatedInput ? { updatedInput: request.updatedInput } : {};
  const decision = { toolUseId: pause.id, allow: request.approved, message, ...edited };
  const seq = change.append({
    case: "toolApprovalResolved",
    value: {
      toolUseId: pause.id,
      outcome: request.approved ? PendingOutcome.APPROVED : PendingOutcome.DENIED,
      scope: pattern ? ApprovalScope.SESSION : ApprovalScope.ONCE,
      pattern,
      message,
      answeredBy: who.name,
      ...edited,
    },
  });
  const response = create(AnswerApprovalResponseSchema, { pattern, seq });
  const answer = personsAnswer(who, content, toBinary(AnswerApprovalResponseSchema, response));
  await claim(change, pause, { outcome: request.approved ? "approved" : "denied", decision, answer });
  if (pattern && !change.session.session_patterns.includes(pattern))
    change.set({ session_patterns: [...change.session.session_patterns, pattern] });
  return response;
}

/** Answers a question inside a change: the agent gets its own input back with the answers by question. */
export async function answerQuestion(change: Change, request: AnswerQuestionRequest, who: Answerer): Promise<AnswerQuestionResponse> {
  const pause = await pauseOf(change, "question", request.questionId);
  if (pause.outcome !== null) return again(change, pause, who, request.answers, AnswerQuestionResponseSchema);
  const asked = openQuestion(change.vault, pause);
  const answers = answersByQuestion(asked.questions, request.answers);
  const decision = { toolUseId: pause.id, allow: true, updatedInput: { answers } };
  const seq = change.append({
    case: "questionResolved",
    value: { questionId: pause.id, outcome: PendingOutcome.APPROVED, answers: request.answers, answeredBy: who.name },
  });
  const response = create(AnswerQuestionResponseSchema, { seq });
  const answer = personsAnswer(who, request.answers, toBinary(AnswerQuestionResponseSchema, response));
  await claim(change, pause, { outcome: "approved", decision, answer });
  return response;
}

/** What an answer to an approval says, defaults filled in. */
function contentOf(request: AnswerApprovalRequest) {
  const { approved, approvalScope, approvalPattern, updatedInput } = request;
  const message = approved ? "" : request.message || defaultDenial;
  if (!approved) return { approved, message };
  const forSession = approvalScope === ApprovalScope.SESSION;
  return { approved, message, forSession, pattern: forSession ? approvalPattern : "", updatedInput: updatedInput ?? null };
}

/** The first answer, when this is the same once more. */
function again<Desc extends DescMessage>(
  change: Change,
  pause: PauseRow,
  who: Answerer,
  content: JsonObject,
  schema: Desc,
): MessageShape<Desc> {
  const response = firstResponse(change.vault, pause, who, content);
  if (!response) throw alreadyAnswered(pause);
  return fromBinary(schema, response);
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

async function pauseOf(change: Change, kind: PauseRow["kind"], id: string): Promise<PauseRow> {
  const pause = await findPause(change.tx, change.session.id, id);
  if (pause?.kind !== kind) throw notFound(kind);
  return pause;
}

async function claim(change: Change, pause: PauseRow, resolving: Resolving): Promise<void> {
  if (!(await resolvePause(change, pause, resolving))) throw alreadyAnswered(pause);
  await wake(change);
}

function alreadyAnswered(pause: PauseRow) {
  return refusal(ErrorReason.ALREADY_ANSWERED, "this was answered already", {
    outcome: pause.outcome ?? "",
    answered_by: pause.answered_by ?? "",
  });
}
