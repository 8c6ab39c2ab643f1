import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { checkAccess } from "./access.ts";
import { readConversation } from "./conversation.ts";
import { ApiError, errorBody, invalid } from "./errors.ts";
import { type Counters, createCounters, createWindow } from "./memory.ts";
import { createStreamOutput, createWholeOutput } from "./output.ts";
import { planAnswer } from "./plan.ts";
import { play } from "./play.ts";
import { checkRequest } from "./refuse.ts";
import type { Script } from "./script.ts";
import { countTokens, estimateUsage } from "./usage.ts";
import type { MessagesRequest } from "./wire.ts";

export interface ScriptedModelOptions {
  /** Accepted in `x-api-key` or as bearer; everything else is refused with 401. */
  apiKeys: readonly string[];
  /** Accepted as bearer together with the provider's OAuth beta name. Default none. */
  oauthTokens?: readonly string[];
  /** Without a script only directives and helper requests get more than a plain closing answer. */
  script?: Script;
  /** Milliseconds between two tokens. Default the script's pace, else 0. */
  pace?: number;
  /** Default 0: any free port. */
  port?: number;
  /** How many of the newest requests are kept. Default 200, and never more than 16 MiB of bodies. */
  keep?: number;
  /** Called when a request has been read, before it is answered. */
  onRequest?: (request: RecordedRequest) => void;
  /** Called when a request is over, however it ended. */
  onEnd?: (request: RecordedRequest) => void;
}

/** A request as it arrived, credentials included: a test wants to see which key the gateway added. */
export interface RecordedRequest {
  id: string;
  method: string;
  /** Path with query. */
  path: string;
  headers: Readonly<Record<string, string | string[] | undefined>>;
  /** The parsed JSON body; undefined when there was none or it was no JSON. */
  body: unknown;
  /** The HTTP status sent; undefined while none was. */
  status: number | undefined;
  /** `cut` when the connection broke before the answer was complete, by script or by the client. */
  end: "pending" | "complete" | "cut";
}

export interface ScriptedModel {
  url: string;
  port: number;
  /** The newest requests, oldest first. */
  requests(): RecordedRequest[];
  /** Breaks every open answer and stops; once stopped, nothing more happens. */
  close(): Promise<void>;
}

interface Parts {
  options: ScriptedModelOptions;
  counters: Counters;
  closing: AbortSignal;
  record(request: RecordedRequest, bytes: number): void;
}

const bodyLimit = 32 * 1024 * 1024;
const recordedBytes = 16 * 1024 * 1024;
const idleConnectionMs = 300_000;
const rememberedPlaces = 10_000;
const endpoints: Record<string, "messages" | "count_tokens"> = {
  "/v1/messages": "messages",
  "/v1/messages/count_tokens": "count_tokens",
};

/**
 * Starts a server on the loopback that speaks the provider's Messages API and answers from a
 * script instead of a model.
 */
export async function createScriptedModel(options: ScriptedModelOptions): Promise<ScriptedModel> {
  const closing = new AbortController();
  const window = createWindow<RecordedRequest>({ items: options.keep ?? 200, bytes: recordedBytes });
  const parts: Parts = {
    options,
    counters: createCounters(rememberedPlaces),
    closing: closing.signal,
    record: window.add,
  };
  const server = createServer((request, response) => void handle(parts, request, response));
  // Longer than any client keeps an idle connection, so that none is closed under a request on its way.
  server.keepAliveTimeout = idleConnectionMs;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port ?? 0, "127.0.0.1", resolve);
  });
  const closed = once(server, "close").then(() => undefined);
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    requests: window.items,
    close: () => {
      if (!closing.signal.aborted) {
        closing.abort();
        server.close();
        server.closeAllConnections();
      }
      return closed;
    },
  };
}

async function handle(parts: Parts, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const id = `req_${randomUUID().replaceAll("-", "").slice(0, 24)}`;
  const leaving = new AbortController();
  const recorded: RecordedRequest = {
    id,
    method: request.method ?? "",
    path: request.url ?? "",
    headers: request.headers,
    body: undefined,
    status: undefined,
    end: "pending",
  };
  response.once("close", () => {
    leaving.abort();
    recorded.end = response.writableFinished ? "complete" : "cut";
    recorded.status = response.headersSent ? response.statusCode : undefined;
    parts.options.onEnd?.(recorded);
  });
  const signal = AbortSignal.any([leaving.signal, parts.closing]);
  try {
    await answer(parts, request, response, recorded, signal);
  } catch (error) {
    if (signal.aborted || response.headersSent) response.destroy();
    else refuse(response, id, error);
  }
}

function refuse(response: ServerResponse, id: string, error: unknown): void {
  // An unexpected error is a fault of the scripted model; its words help whoever runs the test.
  const known = error instanceof ApiError ? error : new ApiError(500, "api_error", String(error));
  const body = JSON.stringify(errorBody(known.type, known.message, id));
  response.writeHead(known.status, { ...known.headers, "content-type": "application/json", "request-id": id });
  response.end(body);
}

async function answer(
  parts: Parts,
  request: IncomingMessage,
  response: ServerResponse,
  recorded: RecordedRequest,
  signal: AbortSignal,
): Promise<void> {
  const { options } = parts;
  const raw = await readBody(request).catch((error: unknown) => {
    parts.record(recorded, 0);
    throw error;
  });
  const body = parseJson(raw);
  recorded.body = "value" in body ? body.value : undefined;
  parts.record(recorded, raw.length);
  options.onRequest?.(recorded);

  const endpoint = endpoints[recorded.path.split("?")[0] ?? ""];
  if (!endpoint) throw new ApiError(404, "not_found_error", "Not Found");
  if (request.method !== "POST") throw new ApiError(405, "invalid_request_error", "Method Not Allowed", { allow: "POST" });
  checkAccess(request.headers, { apiKeys: options.apiKeys, oauthTokens: options.oauthTokens ?? [] });
  if (!("value" in body)) throw invalid(`The request body is not valid JSON: ${body.problem}`);
  const checked = checkRequest(body.value, endpoint, String(request.headers["anthropic-version"]));
  if (endpoint === "messages") return answerMessage(parts, checked, response, recorded, signal);
  response.writeHead(200, { "content-type": "application/json", "request-id": recorded.id });
  response.end(JSON.stringify({ input_tokens: countTokens(checked) }));
}

async function answerMessage(
  { options, counters }: Parts,
  request: MessagesRequest,
  response: ServerResponse,
  recorded: RecordedRequest,
  signal: AbortSignal,
): Promise<void> {
  const conversation = readConversation(request, recorded.headers);
  const steps = planAnswer(request, conversation, options.script, counters);
  const override = steps.findLast((step) => step.do === "usage")?.usage;
  const usage = { ...estimateUsage(request), output_tokens: 1, ...override };
  const answering = { response, requestId: recorded.id, model: request.model, usage: { ...usage, output_tokens: 1 }, signal };
  await play({
    request,
    steps,
    usage,
    signal,
    output: request.stream ? createStreamOutput(answering) : createWholeOutput(answering),
    pace: options.pace ?? options.script?.pace ?? 0,
    destroy: () => response.destroy(),
  });
}

function parseJson(raw: Buffer): { value: unknown } | { problem: string } {
  try {
    return { value: JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(raw)) };
  } catch (cause) {
    return { problem: cause instanceof Error ? cause.message : String(cause) };
  }
}

/** Reads a body within the provider's limit; what comes beyond it is dropped, never kept. */
async function readBody(request: IncomingMessage): Promise<Buffer> {
  const tooLarge = new ApiError(413, "request_too_large", "Request exceeds the maximum size", { connection: "close" });
  if (Number(request.headers["content-length"] ?? 0) > bodyLimit) {
    request.resume();
    throw tooLarge;
  }
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size <= bodyLimit) chunks.push(chunk);
  }
  if (size > bodyLimit) throw tooLarge;
  return Buffer.concat(chunks);
}
