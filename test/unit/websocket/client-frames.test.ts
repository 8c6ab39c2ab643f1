import { describe, expect, it } from "vitest";
import { ApprovalScope } from "../../../gen/carrel/v1/approval_pb.ts";
import { type ClientFrame, createClientFrameReader, echoOf } from "../../../server/channel/websocket/client-frames.ts";
import { refusalOf } from "../../../server/channel/websocket/closing.ts";
import { errorFrame } from "../../../server/channel/websocket/server-frames.ts";

const sessionId = `ses_${"1".repeat(32)}`;
const frames = createClientFrameReader();

function read(message: unknown): ClientFrame {
  const text = typeof message === "string" ? message : JSON.stringify(message);
  return frames.read(frames.open(Buffer.from(text), sessionId), sessionId);
}

/** The code and message of the error frame that answers a message; undefined when it is read. */
function answerTo(bytes: Uint8Array): { code: string; message: string } | undefined {
  try {
    frames.read(frames.open(bytes, sessionId), sessionId);
    return undefined;
  } catch (error) {
    return (JSON.parse(errorFrame(sessionId, refusalOf(error)).toString()) as { payload: { code: string; message: string } }).payload;
  }
}

describe("a client frame", () => {
  it("of each type becomes the request of the contract", () => {
    expect(read({ type: "heartbeat" })).toEqual({ type: "heartbeat" });
    expect(read({ type: "heartbeat", payload: {}, timestamp: "2026-01-01T00:00:00Z", session_id: sessionId })).toEqual({
      type: "heartbeat",
    });
    expect(read({ type: "interrupt", payload: null })).toMatchObject({ request: { sessionId } });
    expect(read({ type: "prompt", payload: { text: "hello", request_id: "r1" } })).toMatchObject({
      request: { sessionId, text: "hello", requestId: "r1" },
    });
    expect(
      read({
        type: "tool_approval_response",
        payload: {
          tool_use_id: "t1",
          approved: true,
          approval_scope: "session",
          approval_pattern: "Bash(git:*)",
          updated_input: { command: "git status" },
        },
      }),
    ).toMatchObject({
      request: {
        sessionId,
        toolUseId: "t1",
        approved: true,
        approvalScope: ApprovalScope.SESSION,
        approvalPattern: "Bash(git:*)",
        updatedInput: { command: "git status" },
      },
    });
    expect(read({ type: "tool_approval_response", payload: { tool_use_id: "t1", approved: false, message: "no" } })).toMatchObject({
      request: { approved: false, message: "no", approvalScope: ApprovalScope.UNSPECIFIED },
    });
    expect(read({ type: "ask_user_question_response", payload: { question_id: "q1", answers: { Colour: "blue" } } })).toMatchObject({
      request: { sessionId, questionId: "q1", answers: { Colour: "blue" } },
    });
  });

  it("may name its own session inside its payload", () => {
    expect(read({ type: "prompt", payload: { text: "hello", session_id: sessionId } })).toMatchObject({ request: { sessionId } });
  });

  const approval = (payload: object) => ({ type: "tool_approval_response", payload: { tool_use_id: "t1", approved: true, ...payload } });
  const question = (payload: object) => ({
    type: "ask_user_question_response",
    payload: { question_id: "q1", answers: { a: "b" }, ...payload },
  });
  const prompt = (payload: unknown) => ({ type: "prompt", payload });
  const other = `ses_${"2".repeat(32)}`;
  const wrong: [string, unknown, RegExp][] = [
    ["that is empty", "", /not JSON/],
    ["that is not JSON", "{type:prompt}", /not JSON/],
    ["that is cut", '{"type":"prompt"', /not JSON/],
    ["that is an array", [], /one JSON object/],
    ["that is a string", '"prompt"', /one JSON object/],
    ["that is null", "null", /one JSON object/],
    ["that repeats a key", '{"type":"heartbeat","type":"interrupt"}', /repeats the key/],
    ["with a prototype for a key", '{"type":"heartbeat","__proto__":{}}', /__proto__/],
    ["that is nested too deep", `{"type":"heartbeat","payload":${"[".repeat(70)}${"]".repeat(70)}}`, /nested deeper/],
    ["without a type", {}, /type: expected a string/],
    ["with a number for a type", { type: 1 }, /type: expected a string/],
    ["of a type nobody knows", { type: "shout" }, /unknown type "shout"/],
    ["of a server's type", { type: "session_end" }, /unknown type/],
    ["of a type that every object has", { type: "constructor" }, /unknown type/],
    ["of another session", { type: "heartbeat", session_id: other }, /session_id/],
    ["of another session inside", prompt({ text: "hello", session_id: other }), /session_id/],
    ["prompt without a payload", { type: "prompt" }, /payload\.text/],
    ["prompt with a text for a payload", prompt("hello"), /payload: expected an object/],
    ["prompt with an array for a payload", prompt([]), /payload: expected an object/],
    ["prompt without words", prompt({ text: "" }), /payload\.text/],
    ["prompt with a number for text", prompt({ text: 1 }), /payload\.text: expected a string/],
    ["prompt with half a character", '{"type":"prompt","payload":{"text":"\\ud800"}}', /payload\.text/],
    ["prompt over its limit", prompt({ text: "x".repeat(524_289) }), /payload\.text/],
    ["prompt with a misspelt field", prompt({ text: "hello", requestid: "r" }), /payload\.requestid/],
    ["prompt with a long request id", prompt({ text: "hello", request_id: "r".repeat(256) }), /payload\.request_id/],
    ["approval without an answer", { type: "tool_approval_response", payload: { tool_use_id: "t1" } }, /payload\.approved/],
    ["approval answered by a word", approval({ approved: "true" }), /payload\.approved/],
    ["approval without a call", { type: "tool_approval_response", payload: { approved: true } }, /payload\.tool_use_id/],
    ["approval with a blank in its id", approval({ tool_use_id: "t 1" }), /payload\.tool_use_id/],
    ["approval of an unknown scope", approval({ approval_scope: "forever" }), /payload\.approval_scope: expected one of once, session/],
    ["approval with a text for an input", approval({ updated_input: "ls" }), /payload\.updated_input/],
    ["approval with a misspelt input", approval({ updated_inptu: {} }), /payload\.updated_inptu/],
    ["approval with a NUL in its pattern", approval({ approval_pattern: "a\u0000" }), /payload\.approval_pattern/],
    ["question without answers", question({ answers: {} }), /payload\.answers/],
    ["question with a number for an answer", question({ answers: { a: 1 } }), /payload\.answers\.a/],
    ["question with a list of answers", question({ answers: ["a"] }), /payload\.answers/],
    ["question without its id", question({ question_id: "" }), /payload\.question_id/],
  ];
  it.each(wrong)("%s is an invalid message", (_name, message, expected) => {
    const answer = answerTo(Buffer.from(typeof message === "string" ? message : JSON.stringify(message)));
    expect(answer?.code).toBe("invalid_message");
    expect(answer?.message).toMatch(expected);
  });

  it("that is not UTF-8 is an invalid message", () => {
    expect(answerTo(Buffer.from([0x22, 0xff, 0x22]))).toMatchObject({
      code: "invalid_message",
      message: expect.stringMatching(/UTF-8/) as string,
    });
  });

  it("that is wrong in a long way gets a short answer", () => {
    const answer = answerTo(Buffer.from(JSON.stringify(question({ answers: { ["k".repeat(500_000)]: 1 } }))));
    expect(answer?.code).toBe("invalid_message");
    expect(answer?.message.length).toBeLessThanOrEqual(2_000);
  });

  it("is answered under its own ids, when they are ids", () => {
    const echo = (payload: unknown) => echoOf(frames.open(Buffer.from(JSON.stringify({ type: "prompt", payload })), sessionId));
    expect(echo({ request_id: "r", tool_use_id: "t", question_id: "q", text: "hello" })).toEqual({
      request_id: "r",
      tool_use_id: "t",
      question_id: "q",
    });
    expect(echo({ request_id: 1, tool_use_id: "", question_id: "q".repeat(256) })).toEqual({});
    expect(echo("hello")).toEqual({});
  });
});
