// The agent's messages as events and deltas. Pure but for the counters of one conversation.
import type { SDKMessage } from "@anthropic-ai/claude-agent-sdk/core";
import type { JsonObject, JsonValue, MessageInitShape } from "@bufbuild/protobuf";
import { fromJson } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { DeltaKind, type DeltaSchema, type EventPayloadSchema } from "../gen/carrel/v1/event_pb.ts";

export type PayloadKind = NonNullable<MessageInitShape<typeof EventPayloadSchema>["kind"]>;
export type DeltaInit = MessageInitShape<typeof DeltaSchema>;

export type Translated = { events: PayloadKind[]; delta?: DeltaInit; turnEnded?: boolean };

export type Translator = {
  translate(message: SDKMessage): Translated;
  /** The tool call that a sub-agent works for; empty for the agent itself. */
  parentOf(agentId: string | undefined): string;
};

type Block = { type: string; [field: string]: unknown };
type Loose = { type: string; subtype?: string; [field: string]: unknown };

const nothing: Translated = { events: [] };
/** Notices of the agent worth a line in the log, and what people are told. */
const notices: Record<string, (message: Loose) => string> = {
  api_retry: (message) => `the model did not answer (${String(message["error_status"] ?? message["error"])}); trying again`,
  compact_boundary: () => "the conversation was summarised to make room",
};

/** @param wasInterrupted whether the turn that just ended was stopped by a person. */
export function createTranslator(wasInterrupted: () => boolean): Translator {
  const blocksSeen = new Map<string, number>();
  const offsets = new Map<string, number>();
  const parents = new Map<string, string>();
  let streaming = "";
  let sdkSessionId = "";

  const nextBlock = (messageId: string): string => {
    const index = blocksSeen.get(messageId) ?? 0;
    // One conversation speaks a few messages at a time; what is older is done with.
    if (blocksSeen.size > 256) blocksSeen.clear();
    blocksSeen.set(messageId, index + 1);
    return `${messageId}/${index}`;
  };

  const stream = (event: Loose): Translated => {
    if (event.type === "message_start") {
      streaming = (event["message"] as { id: string }).id;
      offsets.clear();
    }
    if (event.type !== "content_block_delta") return nothing;
    const piece = pieceOf(event["delta"] as Block);
    if (!piece) return nothing;
    const blockId = `${streaming}/${String(event["index"])}`;
    const offset = offsets.get(blockId) ?? 0;
    offsets.set(blockId, offset + piece.text.length);
    return { events: [], delta: { blockId, offset, ...piece } };
  };

  const system = (message: Loose): Translated => {
    if (message.subtype === "task_started") parents.set(String(message["task_id"]), String(message["tool_use_id"] ?? ""));
    if (message.subtype === "init" && message["session_id"] !== sdkSessionId) {
      sdkSessionId = String(message["session_id"]);
      return { events: [{ case: "sdkSessionId", value: { id: sdkSessionId } }] };
    }
    const tell = notices[message.subtype ?? ""];
    return tell ? { events: [{ case: "system", value: { subtype: message.subtype ?? "", message: tell(message) } }] } : nothing;
  };

  return {
    parentOf: (agentId) => (agentId === undefined ? "" : (parents.get(agentId) ?? agentId)),
    translate(sdkMessage) {
      const message = sdkMessage as unknown as Loose;
      const parentToolUseId = String(message["parent_tool_use_id"] ?? "");
      switch (message.type) {
        case "stream_event":
          return parentToolUseId ? nothing : stream(message["event"] as Loose);
        case "system":
          return system(message);
        case "assistant": {
          const spoken = message["message"] as { id: string; model: string; content: Block[] };
          return { events: spoken.content.flatMap((block) => assistantEvent(block, spoken, nextBlock(spoken.id), parentToolUseId)) };
        }
        case "user":
          return { events: toolResults(message, parentToolUseId) };
        case "result":
          return { events: [turnResult(message, wasInterrupted())], turnEnded: true };
        default:
          return nothing;
      }
    },
  };
}

function pieceOf(delta: Block): { kind: DeltaKind; text: string } | undefined {
  if (delta.type === "text_delta") return { kind: DeltaKind.TEXT, text: String(delta["text"]) };
  if (delta.type === "thinking_delta") return { kind: DeltaKind.THINKING, text: String(delta["thinking"]) };
  if (delta.type === "input_json_delta") return { kind: DeltaKind.TOOL_INPUT, text: String(delta["partial_json"]) };
  return undefined;
}

function assistantEvent(
  block: Block,
  { id, model }: { id: string; model: string },
  blockId: string,
  parentToolUseId: string,
): PayloadKind[] {
  const about = { blockId, messageId: id, model, parentToolUseId };
  switch (block.type) {
    case "text":
      return [{ case: "assistant", value: { ...about, content: { case: "text", value: String(block["text"]) } } }];
    case "thinking":
      return [{ case: "assistant", value: { ...about, content: { case: "thinking", value: String(block["thinking"]) } } }];
    case "tool_use":
    case "server_tool_use":
      return [
        {
          case: "toolUse",
          value: {
            id: String(block["id"]),
            name: String(block["name"]),
            input: (block["input"] ?? {}) as JsonObject,
            blockId,
            parentToolUseId,
          },
        },
      ];
    default:
      return [];
  }
}

function toolResults(message: Loose, parentToolUseId: string): PayloadKind[] {
  const content = (message["message"] as { content?: unknown }).content;
  if (!Array.isArray(content)) return [];
  return (content as Block[])
    .filter((block) => block.type === "tool_result")
    .map((block) => ({
      case: "toolResult",
      value: {
        toolUseId: String(block["tool_use_id"]),
        content: fromJson(ValueSchema, (block["content"] ?? "") as JsonValue),
        isError: block["is_error"] === true,
        parentToolUseId,
      },
    }));
}

function turnResult(message: Loose, interrupted: boolean): PayloadKind {
  const failed = message["is_error"] === true || message.subtype !== "success";
  // The agent calls a refused model request a success of subtype; only is_error tells.
  const subtype = interrupted ? "interrupted" : message["terminal_reason"] === "api_error" ? "api_error" : String(message.subtype ?? "");
  const errors = Array.isArray(message["errors"]) ? message["errors"].join("\n") : "";
  return {
    case: "result",
    value: {
      success: !failed && !interrupted,
      subtype,
      summary: String(message["result"] ?? errors),
      numTurns: Number(message["num_turns"] ?? 0),
    },
  };
}
