import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";
import { EventPayloadSchema, EventSchema } from "../../../gen/carrel/v1/event_pb.ts";
import { frameOf } from "../../../server/channel/frames.ts";

type Kind = Parameters<typeof create<typeof EventPayloadSchema>>[1];

function frame(kind: NonNullable<Kind>["kind"]) {
  const at = new Date("2026-01-02T03:04:05.678Z");
  return frameOf(
    "ses_1",
    create(EventSchema, { seq: 7, createdAt: timestampFromDate(at), turn: 3, payload: { ...(kind ? { kind } : {}) } }),
  );
}

test("every kind of event has a frame of a type of the product, with the session, the number and the time", () => {
  const types: Record<string, string> = {
    user: "user",
    assistant: "assistant",
    toolUse: "tool_use",
    toolResult: "tool_result",
    system: "system",
    result: "result",
    sessionStatus: "session_status",
    sessionEnd: "session_end",
    sessionError: "session_error",
    toolApprovalRequest: "tool_approval_request",
    toolApprovalResolved: "system",
    askUserQuestion: "ask_user_question",
    questionResolved: "system",
    usageDelta: "usage_delta",
    sdkSessionId: "sdk_session_id",
    promptCanceled: "system",
    turnStart: "system",
  };
  const fields = EventPayloadSchema.oneofs[0]!.fields;
  expect(fields.map(({ localName }) => localName).toSorted()).toEqual(Object.keys(types).toSorted());
  for (const { localName } of fields) {
    const made = frame({ case: localName, value: {} } as never);
    expect([localName, made?.type, made?.seq, made?.sessionId]).toEqual([localName, types[localName], 7, "ses_1"]);
    expect(Number(made?.timestamp?.seconds)).toBe(1_767_323_045);
  }
});

test("an event of a kind that this version does not know has no frame", () => {
  expect([frame(undefined), frameOf("ses_1", create(EventSchema, { seq: 1 }))]).toEqual([undefined, undefined]);
});

test("enum values are shown by the product's words, numbers as numbers, absent exit codes not at all", () => {
  expect(frame({ case: "sessionStatus", value: { status: 2, userState: 2, detail: 5 } })?.payload).toEqual({
    status: "running",
    user_state: "waiting",
    detail: "blocked",
  });
  expect(frame({ case: "sessionEnd", value: { reason: 4, exitCode: 0 } })?.payload).toMatchObject({
    reason: "user_requested",
    exit_code: 0,
  });
  expect(frame({ case: "sessionEnd", value: { reason: 8 } })?.payload).not.toHaveProperty("exit_code");
  expect(frame({ case: "usageDelta", value: { model: "m", usage: { inputTokens: 3 }, costUsd: 0.5 } })?.payload).toMatchObject({
    model: "m",
    input_tokens: 3,
    output_tokens: 0,
    cost_usd: 0.5,
  });
});

test("what somebody writes into a notice cannot take the place of what it is", () => {
  const made = frame({
    case: "system",
    value: { subtype: "turn_interrupted", message: "real", details: { subtype: "forged", message: "forged", more: 1 } },
  });
  expect(made?.payload).toEqual({ subtype: "turn_interrupted", message: "real", more: 1 });
});
