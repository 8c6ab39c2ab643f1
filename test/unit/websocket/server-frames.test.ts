import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { ApprovalScope, PendingOutcome } from "../../../gen/carrel/v1/approval_pb.ts";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { DeltaKind, DeltaSchema, type EventPayload, type EventPayloadSchema, EventSchema } from "../../../gen/carrel/v1/event_pb.ts";
import { EndReason, SessionDetail, SessionStatus, UserState } from "../../../gen/carrel/v1/session_pb.ts";
import { closeCodeOf, closeReason, refusalOf } from "../../../server/channel/websocket/closing.ts";
import {
  createServerFrames,
  deltaFrame,
  errorFrame,
  plainFrame,
  promptQueuedFrame,
  statusFrame,
} from "../../../server/channel/websocket/server-frames.ts";
import { notFound, refusal, retryLater } from "../../../server/errors.ts";

const sessionId = `ses_${"1".repeat(32)}`;
const createdAt = { seconds: 1_700_000_000n, nanos: 250_000_000 };
type Kind = NonNullable<MessageInitShape<typeof EventPayloadSchema>["kind"]>;
type Case = NonNullable<EventPayload["kind"]["case"]>;
type Envelope = { type: string; timestamp: string; session_id: string; seq?: number; payload: Record<string, unknown> };

const parse = (bytes: Buffer | undefined) => JSON.parse(bytes?.toString() ?? "null") as Envelope;
const eventOf = (kind: Kind) => create(EventSchema, { seq: 7, createdAt, payload: { kind } });
const tokens = { inputTokens: 1, outputTokens: 2, cacheCreationInputTokens: 3, cacheReadInputTokens: 4 };
const tally = { input_tokens: 1, output_tokens: 2, cache_creation_input_tokens: 3, cache_read_input_tokens: 4 };

/** One row for each kind of event: the type checker finds a missing one. */
const projections: { [C in Case]: [Extract<Kind, { case?: C }>["value"], string, Record<string, unknown>] } = {
  user: [
    { text: "hi", queued: true, requestId: "r1" },
    "user",
    { text: "hi", content: [{ type: "text", text: "hi" }], queued: true, request_id: "r1" },
  ],
  assistant: [
    { blockId: "b", model: "m", content: { case: "text", value: "yes" } },
    "assistant",
    { model: "m", content: [{ type: "text", text: "yes" }], block_id: "b", parent_tool_use_id: "" },
  ],
  toolUse: [
    { id: "t", name: "Bash", input: { command: "ls" }, blockId: "b" },
    "tool_use",
    { id: "t", name: "Bash", input: { command: "ls" }, block_id: "b", parent_tool_use_id: "" },
  ],
  toolResult: [
    { toolUseId: "t", content: { kind: { case: "stringValue", value: "out" } }, isError: true, parentToolUseId: "p" },
    "tool_result",
    { tool_use_id: "t", content: "out", is_error: true, parent_tool_use_id: "p" },
  ],
  system: [
    { subtype: "recovered", message: "again", details: { restarts: 1 } },
    "system",
    { restarts: 1, subtype: "recovered", message: "again" },
  ],
  result: [
    { success: true, subtype: "success", summary: "done", numTurns: 2, usage: tokens, costUsd: 0.5, durationMs: 12 },
    "result",
    { success: true, subtype: "success", summary: "done", num_turns: 2, usage: tally, cost_usd: 0.5, duration_ms: 12 },
  ],
  sessionStatus: [
    { status: SessionStatus.RUNNING, userState: UserState.WAITING, detail: SessionDetail.IDLE },
    "session_status",
    { status: "running", user_state: "waiting", detail: "idle" },
  ],
  sessionEnd: [
    { reason: EndReason.USER_REQUESTED, exitCode: 0, message: "bye" },
    "session_end",
    { reason: "user_requested", message: "bye", exit_code: 0 },
  ],
  sessionError: [{ error: "agent_crashed", details: "boom" }, "session_error", { error: "agent_crashed", details: "boom" }],
  toolApprovalRequest: [
    { toolUseId: "t", toolName: "Bash", toolInput: { command: "ls" }, inputHash: "h" },
    "tool_approval_request",
    { tool_use_id: "t", tool_name: "Bash", tool_input: { command: "ls" }, parent_tool_use_id: "" },
  ],
  toolApprovalResolved: [
    {
      toolUseId: "t",
      outcome: PendingOutcome.APPROVED,
      scope: ApprovalScope.SESSION,
      pattern: "Bash(ls:*)",
      answeredBy: "a@b",
      updatedInput: { command: "ls -l" },
    },
    "system",
    {
      tool_use_id: "t",
      outcome: "approved",
      approval_scope: "session",
      approval_pattern: "Bash(ls:*)",
      answered_by: "a@b",
      updated_input: { command: "ls -l" },
      subtype: "approval_resolved",
      message: "",
    },
  ],
  askUserQuestion: [
    {
      questionId: "q",
      questions: [{ question: "Which?", header: "Colour", multiSelect: true, options: [{ label: "blue", description: "the sea" }] }],
    },
    "ask_user_question",
    {
      question_id: "q",
      questions: [{ question: "Which?", header: "Colour", multi_select: true, options: [{ label: "blue", description: "the sea" }] }],
    },
  ],
  questionResolved: [
    { questionId: "q", outcome: PendingOutcome.INTERRUPTED, answers: { Colour: "blue" } },
    "system",
    { question_id: "q", outcome: "interrupted", answers: { Colour: "blue" }, answered_by: "", subtype: "question_resolved", message: "" },
  ],
  usageDelta: [{ model: "m", usage: tokens, costUsd: 0.25 }, "usage_delta", { model: "m", ...tally, cost_usd: 0.25 }],
  sdkSessionId: [{ id: "s" }, "sdk_session_id", { sdk_session_id: "s" }],
  promptCanceled: [
    { promptSeq: 3, canceledBy: "a@example.com" },
    "system",
    { prompt_seq: 3, canceled_by: "a@example.com", subtype: "prompt_canceled", message: "" },
  ],
  turnStart: [{ promptSeq: 3 }, "system", { prompt_seq: 3, subtype: "turn_started", message: "" }],
};

describe("an event", () => {
  const frames = createServerFrames();

  it.each(Object.entries(projections))("of kind %s becomes the product's envelope", (kind, [value, type, payload]) => {
    const bytes = frames.event(sessionId, eventOf({ case: kind, value } as Kind));
    expect(parse(bytes)).toEqual({ type, timestamp: "2023-11-14T22:13:20.250Z", session_id: sessionId, seq: 7, payload });
  });

  it("is encoded once for all its readers", () => {
    const event = eventOf({ case: "user", value: { text: "hi" } });
    expect(frames.event(sessionId, event)).toBe(frames.event(sessionId, event));
  });

  it("of a kind this version does not know has no envelope", () => {
    expect(frames.event(sessionId, create(EventSchema, { seq: 7, payload: {} }))).toBeUndefined();
  });
});

describe("a frame that is no event", () => {
  it("has no number", () => {
    const frame = parse(plainFrame(sessionId, "history", { messages: [] }));
    expect(frame).toEqual({ type: "history", timestamp: frame.timestamp, session_id: sessionId, payload: { messages: [] } });
    expect(new Date(frame.timestamp).toISOString()).toBe(frame.timestamp);
  });

  it("says where a session, a block and a prompt stand", () => {
    const ended = { status: SessionStatus.ENDED, userState: UserState.ENDED, detail: SessionDetail.UNSPECIFIED };
    expect(parse(statusFrame(sessionId, ended))).toMatchObject({
      type: "session_status",
      payload: { status: "ended", user_state: "ended" },
    });
    const delta = create(DeltaSchema, { blockId: "b", kind: DeltaKind.THINKING, text: "hm", offset: 3 });
    expect(parse(deltaFrame(sessionId, delta)).payload).toEqual({
      block_id: "b",
      kind: "thinking",
      text: "hm",
      offset: 3,
      parent_tool_use_id: "",
    });
    expect(parse(promptQueuedFrame(sessionId, { seq: 9, position: 2 }, { request_id: "r" }))).toMatchObject({
      type: "system",
      payload: { subtype: "prompt_queued", seq: 9, position: 2, request_id: "r" },
    });
  });
});

describe("a refusal", () => {
  const ended = refusal(ErrorReason.SESSION_ENDED, "the session has ended");
  const cases: [string, unknown, string, number][] = [
    ["of a session that is not there", notFound("session"), "session_not_found", 4004],
    ["of a question that is not there", notFound("question"), "not_found", 4004],
    ["of an ended session", ended, "session_not_running", 4100],
    ["of a malformed message", refusal(ErrorReason.MALFORMED_BODY, "no"), "invalid_message", 4500],
    ["by the message rate", retryLater(ErrorReason.RATE_LIMITED, "slower", 1), "rate_limited", 1008],
    ["of an answer that came second", refusal(ErrorReason.ALREADY_ANSWERED, "no"), "already_answered", 4500],
    ["of an expired token", refusal(ErrorReason.UNAUTHENTICATED, "no"), "unauthenticated", 4001],
    ["of somebody without an account", refusal(ErrorReason.NOT_REGISTERED, "no"), "not_registered", 4003],
    ["while shutting down", refusal(ErrorReason.SHUTTING_DOWN, "no"), "shutting_down", 1012],
    ["of a slow reader", refusal(ErrorReason.READER_TOO_SLOW, "no"), "reader_too_slow", 4101],
    ["while the database is away", Object.assign(new Error("secret"), { code: "57P01" }), "unavailable", 4101],
    ["by a fault", new Error("secret"), "internal", 4500],
  ];
  it.each(cases)("%s has its word and its close code", (_name, cause, code, close) => {
    const error = refusalOf(cause);
    const { type, payload } = parse(errorFrame(sessionId, error, { request_id: "r" }));
    expect([type, payload.code, payload.request_id, closeCodeOf(error)]).toEqual(["error", code, "r", close]);
    expect(JSON.stringify(payload)).not.toContain("secret");
  });

  it("says when to try again", () => {
    expect(parse(errorFrame(sessionId, retryLater(ErrorReason.RATE_LIMITED, "slower", 1.2))).payload.retry_after).toBe(2);
  });

  it("fits a close frame, cut between characters", () => {
    const reason = closeReason(refusal(ErrorReason.INTERNAL, "é😀".repeat(60)));
    expect(Buffer.byteLength(reason)).toBeLessThanOrEqual(123);
    expect(reason.isWellFormed()).toBe(true);
  });
});
