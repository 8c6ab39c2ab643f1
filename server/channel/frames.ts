// Events as the product's frames (spec §2.4): one pure function, used by the WebSocket and by history alike.
import { create, type JsonObject, type JsonValue, toJson } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { type Approval, ApprovalScopeSchema, PendingOutcomeSchema, type Question } from "../../gen/carrel/v1/approval_pb.ts";
import { type Event, type EventPayload, type Frame, FrameSchema } from "../../gen/carrel/v1/event_pb.ts";
import { EndReasonSchema, SessionDetailSchema, SessionStatusSchema, type Usage, UserStateSchema } from "../../gen/carrel/v1/session_pb.ts";
import { wordOf } from "../words.ts";

type Kind = NonNullable<EventPayload["kind"]>;
type Case = NonNullable<Kind["case"]>;
type Value<C extends Case> = Extract<Kind, { case: C }>["value"];
type Projection = { type: string; payload: JsonObject };

/** An event as a frame; undefined for a payload this version does not know. */
export function frameOf(sessionId: string, event: Event): Frame | undefined {
  const kind = event.payload?.kind;
  if (!kind?.case) return undefined;
  const project = projections[kind.case] as (value: unknown) => Projection;
  return create(FrameSchema, {
    ...project(kind.value),
    sessionId,
    seq: event.seq,
    ...(event.createdAt ? { timestamp: event.createdAt } : {}),
  });
}

const projections: { [C in Case]: (value: Value<C>) => Projection } = {
  user: ({ text, queued, requestId }) => ({
    type: "user",
    // The sender recognises its own prompt by it, also after a reconnect.
    payload: { text, content: [{ type: "text", text }], queued, ...(requestId ? { request_id: requestId } : {}) },
  }),
  assistant: (message) => ({
    type: "assistant",
    payload: {
      model: message.model,
      content: [
        message.content.case === "thinking"
          ? { type: "thinking", thinking: message.content.value }
          : { type: "text", text: message.content.value ?? "" },
      ],
      block_id: message.blockId,
      parent_tool_use_id: message.parentToolUseId,
    },
  }),
  toolUse: (use) => ({
    type: "tool_use",
    payload: { id: use.id, name: use.name, input: use.input ?? {}, block_id: use.blockId, parent_tool_use_id: use.parentToolUseId },
  }),
  toolResult: (result) => ({
    type: "tool_result",
    payload: {
      tool_use_id: result.toolUseId,
      content: result.content ? toJson(ValueSchema, result.content) : "",
      is_error: result.isError,
      parent_tool_use_id: result.parentToolUseId,
    },
  }),
  system: ({ subtype, message, details }) => notice(subtype, message, details ?? {}),
  result: (result) => ({
    type: "result",
    payload: {
      success: result.success,
      subtype: result.subtype,
      summary: result.summary,
      num_turns: result.numTurns,
      usage: usage(result.usage),
      cost_usd: result.costUsd,
      duration_ms: result.durationMs,
    },
  }),
  sessionStatus: (change) => ({
    type: "session_status",
    payload: {
      status: wordOf(SessionStatusSchema, change.status),
      user_state: wordOf(UserStateSchema, change.userState),
      detail: wordOf(SessionDetailSchema, change.detail),
    },
  }),
  sessionEnd: (end) => ({
    type: "session_end",
    payload: {
      reason: wordOf(EndReasonSchema, end.reason),
      message: end.message,
      ...(end.exitCode === undefined ? {} : { exit_code: end.exitCode }),
    },
  }),
  sessionError: ({ error, details }) => ({ type: "session_error", payload: { error, details } }),
  toolApprovalRequest: (approval) => ({ type: "tool_approval_request", payload: approvalPayload(approval) }),
  toolApprovalResolved: (resolution) =>
    notice("approval_resolved", "", {
      tool_use_id: resolution.toolUseId,
      outcome: wordOf(PendingOutcomeSchema, resolution.outcome),
      approval_scope: wordOf(ApprovalScopeSchema, resolution.scope),
      approval_pattern: resolution.pattern,
      message: resolution.message,
      answered_by: resolution.answeredBy,
      ...(resolution.updatedInput ? { updated_input: resolution.updatedInput } : {}),
    }),
  askUserQuestion: (question) => ({ type: "ask_user_question", payload: questionPayload(question) }),
  questionResolved: (resolution) =>
    notice("question_resolved", "", {
      question_id: resolution.questionId,
      outcome: wordOf(PendingOutcomeSchema, resolution.outcome),
      answers: { ...resolution.answers },
      answered_by: resolution.answeredBy,
    }),
  usageDelta: ({ model, usage: tally, costUsd }) => ({ type: "usage_delta", payload: { model, ...usage(tally), cost_usd: costUsd } }),
  sdkSessionId: ({ id }) => ({ type: "sdk_session_id", payload: { sdk_session_id: id } }),
  promptCanceled: ({ promptSeq, canceledBy }) => notice("prompt_canceled", "", { prompt_seq: promptSeq, canceled_by: canceledBy }),
  turnStart: ({ promptSeq }) => notice("turn_started", "", { prompt_seq: promptSeq }),
};

function notice(subtype: string, message: string, details: JsonObject): Projection {
  return { type: "system", payload: { ...details, subtype, message } };
}

function approvalPayload(approval: Approval): JsonObject {
  return {
    tool_use_id: approval.toolUseId,
    tool_name: approval.toolName,
    tool_input: approval.toolInput ?? {},
    parent_tool_use_id: approval.parentToolUseId,
  };
}

function questionPayload(question: Question): JsonObject {
  const questions: JsonValue = question.questions.map((item) => ({
    question: item.question,
    header: item.header,
    multi_select: item.multiSelect,
    options: item.options.map(({ label, description }) => ({ label, description })),
  }));
  return { question_id: question.questionId, questions };
}

function usage(tally: Usage | undefined): JsonObject {
  return {
    input_tokens: tally?.inputTokens ?? 0,
    output_tokens: tally?.outputTokens ?? 0,
    cache_creation_input_tokens: tally?.cacheCreationInputTokens ?? 0,
    cache_read_input_tokens: tally?.cacheReadInputTokens ?? 0,
  };
}
