import http, { type IncomingMessage, type ServerResponse } from "node:http";
import https from "node:https";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { isServerUnavailable } from "../db/failures.ts";
import type { Log } from "../log.ts";
import { type Cap, capReached, type ModelRequest } from "./caps.ts";
import type { PhantomSession } from "./phantom.ts";
import { createUsageMeter, type Metered } from "./usage-meter.ts";

/** Everything a sandbox may ask of the provider. Compared as a whole: no other path, query or encoding passes. */
const allowed = new Set(["/v1/messages", "/v1/messages?beta=true", "/v1/messages/count_tokens", "/v1/messages/count_tokens?beta=true"]);

/** What the agent may say about its request; everything else, above all its idea of who it is, stays here. */
const passedRequestHeaders = [
  "anthropic-version",
  "anthropic-beta",
  "content-type",
  "content-length",
  "user-agent",
  "accept",
  "x-app",
  "anthropic-dangerous-direct-browser-access",
];
const droppedResponseHeaders = new Set([
  "connection",
  "keep-alive",
  "transfer-encoding",
  "set-cookie",
  "proxy-authenticate",
  "upgrade",
  "trailer",
]);

/** A provider that says nothing for this long has forgotten us; long answers without streaming take minutes. */
const silenceMs = 15 * 60_000;

/** A borrowed secret: used at once, then released, which wipes it. */
export type ProviderSecret = { kind: "api_key" | "oauth_token"; secret: Uint8Array; release(): void };

export type ModelGatewayDeps = {
  baseUrl: URL;
  /** The live session a phantom token belongs to; undefined for every other token. */
  findPhantom(token: string): Promise<PhantomSession | undefined>;
  /** The owner's provider secret; undefined when none is stored. */
  openCredential(userId: string): Promise<ProviderSecret | undefined>;
  recordUsage(session: PhantomSession, metered: Metered, request: ModelRequest): Promise<void>;
  /** Told of every request that may cost something; `over` resolves when it is booked or cost nothing. */
  track(sessionId: string, over: Promise<void>): void;
  /** Ends a session that has used up what it may. */
  endAtCap(session: PhantomSession, cap: Cap): Promise<void>;
  /** The box whose socket a request came through. */
  boxOf(request: IncomingMessage): string | undefined;
  log: Log;
};

export type ModelGateway = { handle(request: IncomingMessage, response: ServerResponse): void; close(): void };

/** The sandbox's only way to a model (design D7): swaps the phantom token for the owner's secret and meters the answer. */
export function createModelGateway(deps: ModelGatewayDeps): ModelGateway {
  const secure = deps.baseUrl.protocol === "https:";
  const agent = secure ? new https.Agent({ keepAlive: true }) : new http.Agent({ keepAlive: true });
  const send = secure ? https.request : http.request;
  return {
    handle(request, response) {
      relay(deps, (options) => send({ ...options, agent }), request, response).catch((error: Error) => {
        // The agent waits and asks again, as it would of an overloaded provider.
        if (isServerUnavailable(error)) return refuse(response, 503, "overloaded_error", "Carrel cannot reach its database at the moment");
        deps.log.error({ err: error }, "model gateway failed");
        refuse(response, 500, "api_error", "the model gateway failed");
      });
    },
    close: () => agent.destroy(),
  };
}

type Send = (options: https.RequestOptions) => http.ClientRequest;

async function relay(deps: ModelGatewayDeps, send: Send, request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.method !== "POST" || !allowed.has(request.url ?? "")) {
    return refuse(response, 404, "not_found_error", "this path is not open to sandboxes");
  }
  const session = await authenticate(deps, request);
  if (!session) return refuse(response, 401, "authentication_error", "this token opens nothing here");
  const cap = capReached(session, !isSubAgent(request));
  if (cap) {
    await deps.endAtCap(session, cap);
    return refuse(response, 403, "permission_error", cap.message);
  }
  const credential = await deps.openCredential(session.ownerId);
  // 403 and not 401: the agent retries a 401 for minutes, and no retry helps here.
  if (!credential)
    return refuse(response, 403, "permission_error", "no Anthropic credential is stored: add one with `carrel auth claude set-key`");
  const { promise: over, resolve: settle } = Promise.withResolvers<void>();
  deps.track(session.sessionId, over);
  const upstream = send({
    protocol: deps.baseUrl.protocol,
    hostname: deps.baseUrl.hostname,
    port: deps.baseUrl.port,
    method: "POST",
    path: deps.baseUrl.pathname.replace(/\/$/, "") + request.url,
    headers: upstreamHeaders(request, credential),
  });
  credential.release();
  let answered = false;
  response.on("close", () => {
    upstream.destroy();
    if (!answered) settle();
  });
  upstream.setTimeout(silenceMs, () => upstream.destroy(new Error("the model provider is silent")));
  upstream.on("response", (answer) => {
    answered = true;
    void passOn(
      deps,
      session,
      { subAgent: isSubAgent(request), counted: request.url?.startsWith("/v1/messages/count_tokens") !== true },
      answer,
      response,
    ).finally(settle);
  });
  upstream.on("error", (error) => {
    if (response.writableEnded) return;
    deps.log.warn({ session_id: session.sessionId, error: error.message }, "model provider not reached");
    refuse(response, 502, "api_error", "the model provider could not be reached");
  });
  // Not a pipeline: it would cut the agent's connection with the provider's, before the agent is told why.
  request.pipe(upstream);
}

/** The agent's own header for the requests of its sub-agents. A runner that lies about it only spends its owner's turns. */
function isSubAgent(request: IncomingMessage): boolean {
  return request.headers["x-claude-code-agent-id"] !== undefined;
}

async function authenticate(deps: ModelGatewayDeps, request: IncomingMessage): Promise<PhantomSession | undefined> {
  const key = request.headers["x-api-key"];
  const bearer = /^Bearer (.+)$/.exec(request.headers.authorization ?? "")?.[1];
  const token = typeof key === "string" ? key : bearer;
  if (!token || token.length > 200) return undefined;
  const session = await deps.findPhantom(token);
  return session && deps.boxOf(request) === session.box ? session : undefined;
}

function upstreamHeaders(request: IncomingMessage, { kind, secret }: ProviderSecret): http.OutgoingHttpHeaders {
  const headers: http.OutgoingHttpHeaders = {};
  for (const name of passedRequestHeaders) {
    const value = request.headers[name];
    if (value !== undefined) headers[name] = value;
  }
  const text = Buffer.from(secret).toString("latin1");
  if (kind === "api_key") return { ...headers, "x-api-key": text };
  const beta = [headers["anthropic-beta"], "oauth-2025-04-20"].filter(Boolean).join(",");
  return { ...headers, "anthropic-beta": beta, authorization: `Bearer ${text}` };
}

/** Resolves when the answer has gone through, or was cut, and what it cost is booked. */
async function passOn(
  deps: ModelGatewayDeps,
  session: PhantomSession,
  request: ModelRequest,
  answer: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const meter = createUsageMeter(answer.headers["content-type"] ?? "");
  const headers = Object.entries(answer.headers).filter(([name]) => !droppedResponseHeaders.has(name));
  response.writeHead(answer.statusCode ?? 502, Object.fromEntries(headers) as http.OutgoingHttpHeaders);
  response.flushHeaders();
  const tap = new Transform({
    transform(chunk: Uint8Array, _encoding, done) {
      meter.see(chunk);
      done(null, chunk);
    },
  });
  try {
    await pipeline(answer, tap, response);
  } catch (error) {
    deps.log.info({ session_id: session.sessionId, error: (error as Error).message }, "model answer cut");
  }
  const metered = succeeded(answer) ? meter.result() : undefined;
  if (!metered) return;
  try {
    await deps.recordUsage(session, metered, request);
  } catch (error) {
    deps.log.error({ session_id: session.sessionId, err: error }, "usage not recorded");
  }
}

function succeeded(answer: IncomingMessage): boolean {
  return answer.statusCode !== undefined && answer.statusCode >= 200 && answer.statusCode < 300;
}

/** An error in the provider's own shape, which is what the agent understands. */
function refuse(response: ServerResponse, status: number, type: string, message: string): void {
  if (response.headersSent) return void response.destroy();
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify({ type: "error", error: { type, message } }));
}
