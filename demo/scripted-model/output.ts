import { randomUUID } from "node:crypto";
import { once } from "node:events";
import type { ServerResponse } from "node:http";
import { ApiError, errorBody, statusOf } from "./errors.ts";
import { usageField } from "./usage.ts";
import type { ContentBlock, Usage } from "./wire.ts";

export type Delta =
  | { type: "text_delta"; text: string }
  | { type: "thinking_delta"; thinking: string }
  | { type: "signature_delta"; signature: string }
  | { type: "input_json_delta"; partial_json: string };

/** Where an answer goes: an event stream, or one JSON body at the end. */
export interface Output {
  /** True once the client has seen part of an answer, so that no other HTTP status is possible. */
  begun(): boolean;
  start(): Promise<void>;
  open(block: ContentBlock): Promise<void>;
  delta(delta: Delta): Promise<void>;
  close(): Promise<void>;
  /** Ends the answer with an error in the stream, or as an HTTP error when nothing was sent yet. */
  fail(type: string, message: string): Promise<void>;
  finish(stopReason: string, usage: Usage): Promise<void>;
}

export interface Answering {
  response: ServerResponse;
  requestId: string;
  model: string;
  /** As known at the start of the answer. */
  usage: Usage;
  signal: AbortSignal;
}

function messageOf({ model, usage }: Answering, content: ContentBlock[], stopReason: string | null) {
  return {
    id: `msg_${randomUUID().replaceAll("-", "").slice(0, 24)}`,
    type: "message",
    role: "assistant",
    model,
    content,
    stop_reason: stopReason,
    stop_sequence: null,
    usage: usageField(usage),
  };
}

/** Writes one named event and waits until the reader has room for the next. */
async function sendEvent(answering: Answering, type: string, fields: Record<string, unknown>): Promise<void> {
  const { response, signal } = answering;
  signal.throwIfAborted();
  const room = response.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`);
  if (!room) await once(response, "drain", { signal });
}

/** Server-sent events, in the grammar and order of the provider, as fast as the reader takes them. */
export function createStreamOutput(answering: Answering): Output {
  const { response, requestId } = answering;
  let begun = false;
  let index = -1;

  const send = (type: string, fields: Record<string, unknown>) => sendEvent(answering, type, fields);

  async function start(): Promise<void> {
    if (begun) return;
    begun = true;
    const type = "text/event-stream; charset=utf-8";
    response.writeHead(200, { "content-type": type, "cache-control": "no-cache", "request-id": requestId });
    await send("message_start", { message: messageOf(answering, [], null) });
  }

  return {
    begun: () => begun,
    start,
    async open(block) {
      await start();
      index += 1;
      await send("content_block_start", { index, content_block: block });
      if (index === 0) await send("ping", {});
    },
    delta: (delta) => send("content_block_delta", { index, delta }),
    close: () => send("content_block_stop", { index }),
    async fail(type, message) {
      await start();
      await send("error", errorBody(type, message, requestId));
      response.end();
    },
    async finish(stopReason, usage) {
      await start();
      await send("message_delta", { delta: { stop_reason: stopReason, stop_sequence: null }, usage });
      await send("message_stop", {});
      response.end();
    },
  };
}

/** The answer to a request without `stream`: built up and sent whole. */
export function createWholeOutput(answering: Answering): Output {
  const content: ContentBlock[] = [];
  let json = "";

  function append(delta: Delta): void {
    const block = content.at(-1);
    if (!block) throw new Error("a delta needs an open block");
    if (delta.type === "text_delta") block.text = (block.text ?? "") + delta.text;
    else if (delta.type === "thinking_delta") block.thinking = (block.thinking ?? "") + delta.thinking;
    else if (delta.type === "signature_delta") block.signature = delta.signature;
    else json += delta.partial_json;
  }

  return {
    begun: () => false,
    start: async () => {},
    open: async (block) => {
      json = "";
      content.push({ ...block });
    },
    delta: async (delta) => append(delta),
    close: async () => {
      const block = content.at(-1);
      if (block?.type === "tool_use") block.input = JSON.parse(json || "{}");
    },
    fail: async (type, message) => {
      throw new ApiError(statusOf(type), type, message);
    },
    finish: async (stopReason, usage) => {
      const body = JSON.stringify({ ...messageOf(answering, content, stopReason), usage: usageField(usage) });
      answering.response.writeHead(200, { "content-type": "application/json", "request-id": answering.requestId });
      answering.response.end(body);
    },
  };
}
