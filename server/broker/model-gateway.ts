import http, { type IncomingMessage, type ServerResponse } from "node:http";
import https from "node:https";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { isServerUnavailable } from "../db/failures.ts";
import type { Log } from "../log.ts";
import { type Cap, capReached, isCapped, type ModelRequest } from "./caps.ts";
import { type Asker, type Failure, indifference, isPassing, type Patience, type Trouble } from "./patience.ts";
import type { PhantomSession } from "./phantom.ts";
import { readRefusal, retryAfterOf, saidIn } from "./provider-refusals.ts";
import { type Exchange, watchSilence } from "./silence.ts";
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
  patience: Pick<Patience, "hold" | "failed" | "answered">;
  /** Tells people of what only they can mend. */
  tell(sessionId: string, trouble: Trouble): Promise<void>;
  /** Silence after which a provider has forgotten a request, milliseconds. Streams are never silent for long. An agent has as long. */
  silenceMs: number;
  log: Log;
};

export type ModelGateway = { handle(request: IncomingMessage, response: ServerResponse): void; close(): void };

/** The sandbox's only way to a model (design D7): swaps the phantom token for the owner's secret and meters the answer. */
export function createModelGateway(deps: ModelGatewayDeps): ModelGateway {
  const secure = deps.baseUrl.protocol === "https:";
  const agent = secure ? new https.Agent({ keepAlive: true }) : new http.Agent({ keepAlive: true });
  const send = secure ? https.request : http.request;
  // Counting tokens has a limit of its own with the provider, and the agent goes on without.
  const uncounted = { ...deps, patience: indifference };
  return {
    handle(request, response) {
      relay(isCounted(request) ? deps : uncounted, (options) => send({ ...options, agent }), request, response).catch((error: Error) => {
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
  const { ownerId, sessionId, turn } = session;
  const asker: Client = { ownerId, sessionId, turn, agent: agentOf(request) ?? "", left: false };
  const held = deps.patience.hold(asker);
  if (held) return "message" in held ? giveUp(deps, asker, response, held) : putOff(response, held.retryAfterMs);
  const credential = await deps.openCredential(session.ownerId);
  // 403 and not 401: the agent retries a 401 for minutes, and no retry helps here.
  if (!credential)
    return refuse(response, 403, "permission_error", "no Anthropic credential is stored: add one with `carrel auth claude set-key`");
  const upstream = send({
    protocol: deps.baseUrl.protocol,
    hostname: deps.baseUrl.hostname,
    port: deps.baseUrl.port,
    method: "POST",
    path: deps.baseUrl.pathname.replace(/\/$/, "") + request.url,
    headers: upstreamHeaders(request, credential),
  });
  credential.release();
  const exchange = { request, upstream, response };
  follow(deps, exchange, { session, asker, request: { subAgent: isSubAgent(request), counted: isCounted(request) }, response });
  // Not a pipeline: it would cut the agent's connection with the provider's, before the agent is told why.
  request.pipe(upstream);
}

/** What is known of a request that went to the provider. */
type Asked = { session: PhantomSession; asker: Client; request: ModelRequest; response: ServerResponse };

/** Sees to it that every request ends: with the provider's answer, or with an error that says what became of it. */
function follow(deps: ModelGatewayDeps, exchange: Exchange, asked: Asked): void {
  const { session, asker } = asked;
  const { upstream, response } = exchange;
  const { promise: over, resolve: settle } = Promise.withResolvers<void>();
  deps.track(session.sessionId, over);
  let answer: IncomingMessage | undefined;
  const silence = new AbortController();
  response.on("close", () => {
    // Whoever leaves before the end, and before the provider has failed, was the agent.
    asker.left = !answer?.errored && !response.writableFinished;
    upstream.destroy();
    if (!answer) settle();
  });
  const heard = watchSilence(exchange, deps.silenceMs, {
    agent: () => refuse(response, 408, "timeout_error", "the request did not come whole"),
    provider() {
      if (answer?.complete) return;
      silence.abort();
      if (!answer) upstream.destroy(new Error("the model provider is silent"));
      // What has come of a refusal says enough.
      else if (isRefusal(answer)) answer.destroy();
    },
  });
  upstream.on("response", (begun) => {
    answer = begun;
    heard();
    const passed = isRefusal(answer)
      ? passRefusalOn(deps, asker, answer, response)
      : passOn(deps, { ...asked, answer, silence: silence.signal, heard });
    void passed.finally(settle);
  });
  upstream.on("error", (error) => {
    if (answer || asker.left || response.writableEnded) return;
    deps.log.warn({ session_id: session.sessionId, error: error.message }, "model provider not reached");
    void passFailureOn(deps, asked, silence.signal.aborted);
  });
}

/** Before there was an answer; the agent asks again, unless it was told not to. */
async function passFailureOn(deps: ModelGatewayDeps, { asker, response }: Asked, silent: boolean): Promise<void> {
  const failure: Failure = silent ? { kind: "silent", afterMs: deps.silenceMs, begun: false } : { kind: "unreachable" };
  const trouble = deps.patience.failed(asker, failure);
  if (trouble) return giveUp(deps, asker, response, trouble);
  if (silent) return refuse(response, 504, "timeout_error", "the model provider said nothing");
  refuse(response, 502, "api_error", "the model provider could not be reached");
}

/** Who asked, and whether it has gone away since. */
type Client = Asker & { left: boolean };

/** The agent's own header for the requests of its sub-agents. Who lies about it only spends the tries of its own session. */
function agentOf(request: IncomingMessage): string | undefined {
  return String(request.headers["x-claude-code-agent-id"] ?? "").slice(0, 100) || undefined;
}

/** Whether it asks for a message, and not how many tokens that would take. */
function isCounted(request: IncomingMessage): boolean {
  return request.url?.startsWith("/v1/messages/count_tokens") !== true;
}

function isSubAgent(request: IncomingMessage): boolean {
  return request.headers["x-claude-code-agent-id"] !== undefined;
}

/** Tells the agent not to ask again, and people why. */
async function giveUp(deps: ModelGatewayDeps, { sessionId }: Asker, response: ServerResponse, trouble: Trouble): Promise<void> {
  // First in the log: the agent's own words for it end the turn.
  await deps.tell(sessionId, trouble);
  // With these two statuses the agent repeats our words instead of guessing what is wrong.
  const [status, type] = trouble.refused ? [403, "permission_error"] : [429, "rate_limit_error"];
  refuse(response, Number(status), String(type), trouble.message, { "x-should-retry": "false" });
}

/** The provider wants to be left alone for a while: whoever asks meanwhile is told so without asking it. */
function putOff(response: ServerResponse, retryAfterMs: number): void {
  const headers = { "retry-after": String(Math.ceil(retryAfterMs / 1000)) };
  refuse(response, 429, "rate_limit_error", "the model provider wants to be left alone for a while", headers);
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

type Passing = Asked & { answer: IncomingMessage; silence: AbortSignal; heard(): void };

/** Resolves when the answer has gone through, or was cut, and what it cost is booked. */
async function passOn(deps: ModelGatewayDeps, passing: Passing): Promise<void> {
  const { session, request, asker, answer, response, silence, heard } = passing;
  const meter = createUsageMeter(answer.headers["content-type"] ?? "");
  response.writeHead(answer.statusCode ?? 502, passedBack(answer));
  response.flushHeaders();
  let billing: Promise<void> | undefined;
  const bill = () => (billing ??= book(deps, session, request, meter.result()));
  let noted = false;
  const note = (failure: Failure): void => {
    if (!noted) deps.patience.failed(asker, failure);
    noted = true;
  };
  const tap = new Transform({
    transform(chunk: Uint8Array, _encoding, done) {
      heard();
      meter.see(chunk);
      // Before the agent hears of it, which asks again at once.
      if (meter.failed()) note({ kind: "cut" });
      done(null, chunk);
    },
    // Who has a cap sees the end of an answer when it is booked: its next request is judged by all it has had.
    flush: (done) => (isCapped(session) ? void bill().then(() => done()) : done()),
  });
  const fellSilent = (): void => {
    note({ kind: "silent", afterMs: deps.silenceMs, begun: true });
    endSilent(passing, tap);
  };
  silence.addEventListener("abort", fellSilent, { once: true });
  try {
    await pipeline(answer, tap, response);
  } catch (error) {
    deps.log.info({ session_id: session.sessionId, error: (error as Error).message }, "model answer cut");
  }
  if (meter.whole() ?? answer.complete) deps.patience.answered(asker);
  else if (!asker.left) note({ kind: "cut" });
  await bill();
}

async function book(deps: ModelGatewayDeps, session: PhantomSession, request: ModelRequest, metered: Metered | undefined): Promise<void> {
  if (!metered) return;
  try {
    await deps.recordUsage(session, metered, request);
  } catch (error) {
    deps.log.error({ session_id: session.sessionId, err: error }, "usage not recorded");
  }
}

/** A stream can still say that it failed; anything else is cut. */
function endSilent({ answer, response }: Passing, tap: Transform): void {
  if (!answer.headers["content-type"]?.startsWith("text/event-stream"))
    return void answer.destroy(new Error("the model provider is silent"));
  answer.unpipe(tap);
  response.once("finish", () => answer.destroy());
  tap.end(`event: error\ndata: ${errorBody("timeout_error", "the model provider fell silent")}\n\n`);
}

/** A refusal costs nothing, and may be one that no other try betters. */
async function passRefusalOn(deps: ModelGatewayDeps, asker: Client, answer: IncomingMessage, response: ServerResponse): Promise<void> {
  const status = answer.statusCode ?? 502;
  const body = await readRefusal(answer);
  if (isPassing(status) || status === 401 || status === 402 || status === 403) {
    const trouble = deps.patience.failed(asker, {
      kind: "refused",
      status,
      said: saidIn(body, status),
      retryAfterMs: retryAfterOf(answer),
    });
    if (trouble) return giveUp(deps, asker, response, trouble);
  }
  const { "content-length": _length, ...headers } = passedBack(answer);
  response.writeHead(status, headers);
  response.end(body);
}

function passedBack(answer: IncomingMessage): http.OutgoingHttpHeaders {
  return Object.fromEntries(Object.entries(answer.headers).filter(([name]) => !droppedResponseHeaders.has(name)));
}

function isRefusal({ statusCode = 502 }: IncomingMessage): boolean {
  return statusCode < 200 || statusCode >= 300;
}

/** An error in the provider's own shape, which is what the agent understands. */
function refuse(response: ServerResponse, status: number, type: string, message: string, headers: http.OutgoingHttpHeaders = {}): void {
  if (response.headersSent) return void response.destroy();
  response.writeHead(status, { ...headers, "content-type": "application/json" });
  response.end(errorBody(type, message));
}

function errorBody(type: string, message: string): string {
  return JSON.stringify({ type: "error", error: { type, message } });
}
