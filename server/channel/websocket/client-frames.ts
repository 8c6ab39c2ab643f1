// What a client may say (spec §2.3). Payloads are the requests of the contract in the product's JSON: the same readers and
// the same rules as on every other surface.
import { create, type DescMessage, type JsonValue, type MessageShape } from "@bufbuild/protobuf";
import { pathToString } from "@bufbuild/protobuf/reflect";
import { createValidator } from "@bufbuild/protovalidate";
import {
  type AnswerApprovalRequest,
  AnswerApprovalRequestSchema,
  type AnswerQuestionRequest,
  AnswerQuestionRequestSchema,
  type InterruptRequest,
  InterruptRequestSchema,
  type SendPromptRequest,
  SendPromptRequestSchema,
} from "../../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../../errors.ts";
import { noProblems, refuseProblems } from "../../http/rest/problems.ts";
import { createMessageReaders } from "../../http/rest/reader.ts";
import { parseStrictJson } from "../../http/rest/strict-json.ts";

export type ClientFrame =
  | { type: "heartbeat" }
  | { type: "interrupt"; request: InterruptRequest }
  | { type: "prompt"; request: SendPromptRequest }
  | { type: "tool_approval_response"; request: AnswerApprovalRequest }
  | { type: "ask_user_question_response"; request: AnswerQuestionRequest };

/** The outside of a frame: enough to answer it by name. */
export type ClientEnvelope = { type: string; payload: JsonValue };

export type ClientFrameReader = {
  /** Refuses what is no frame at all. Text and binary messages are the same to it. */
  open(bytes: Uint8Array, sessionId: string): ClientEnvelope;
  /** Refuses unknown types and payloads that break a rule. */
  read(envelope: ClientEnvelope, sessionId: string): ClientFrame;
};

type JsonObject = { [key: string]: JsonValue };

export function createClientFrameReader(): ClientFrameReader {
  const request = createRequestReader();
  const types: Record<ClientFrame["type"], (payload: JsonValue, sessionId: string) => ClientFrame> = {
    heartbeat: () => ({ type: "heartbeat" }),
    interrupt: (_payload, sessionId) => ({ type: "interrupt", request: create(InterruptRequestSchema, { sessionId }) }),
    prompt: (payload, sessionId) => ({ type: "prompt", request: request(SendPromptRequestSchema, payload, sessionId) }),
    tool_approval_response(payload, sessionId) {
      // A forgotten answer must not pass as a denial.
      if (isObject(payload) && typeof payload.approved !== "boolean") throw invalid("payload.approved: expected true or false");
      return { type: "tool_approval_response", request: request(AnswerApprovalRequestSchema, payload, sessionId) };
    },
    ask_user_question_response: (payload, sessionId) => ({
      type: "ask_user_question_response",
      request: request(AnswerQuestionRequestSchema, payload, sessionId),
    }),
  };

  return {
    open,
    read({ type, payload }, sessionId) {
      if (!Object.hasOwn(types, type)) throw invalid(`unknown type "${type.slice(0, 100)}"; known are ${Object.keys(types).join(", ")}`);
      return types[type as ClientFrame["type"]](payload, sessionId);
    },
  };
}

/** Reads a payload as a request of the contract, and holds it against the contract's rules. */
function createRequestReader() {
  const readerOf = createMessageReaders();
  const validator = createValidator();
  return <Desc extends DescMessage>(desc: Desc, payload: JsonValue, sessionId: string): MessageShape<Desc> => {
    const problems = noProblems();
    const message = create(desc);
    Object.assign(message, { sessionId });
    readerOf(desc).fill(message, payload, "payload", problems, new Map([["session_id", sessionId]]));
    refuseProblems(problems);
    const result = validator.validate(desc, message);
    if (result.kind === "valid") return message;
    if (result.kind === "error") throw result.error;
    const violations = result.violations.slice(0, 10);
    throw invalid(violations.map((one) => `payload.${pathToString(one.field)}: ${one.message}`).join("; "));
  };
}

function open(bytes: Uint8Array, sessionId: string): ClientEnvelope {
  const value = parseStrictJson(bytes);
  if (!isObject(value)) throw invalid("a message is one JSON object");
  if (typeof value.type !== "string") throw invalid("type: expected a string");
  const named = value.session_id;
  if (named !== undefined && named !== null && named !== sessionId) throw invalid("session_id: not the session of this connection");
  return { type: value.type, payload: value.payload ?? {} };
}

/** The ids by which a client recognises the answer to its frame. Bounded, since they come from it. */
export function echoOf({ payload }: ClientEnvelope): Record<string, string> {
  if (!isObject(payload)) return {};
  const named = ["request_id", "tool_use_id", "question_id"].map((name) => [name, payload[name]] as const);
  return Object.fromEntries(
    named.filter((pair): pair is [string, string] => typeof pair[1] === "string" && pair[1] !== "" && pair[1].length <= 255),
  );
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function invalid(message: string): Error {
  return refusal(ErrorReason.INVALID_ARGUMENT, message);
}
