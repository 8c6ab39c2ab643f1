import { randomBytes } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { pipeline, Transform } from "node:stream";
import type { Log } from "../log.ts";
import { type Caller, type CallerDeps, failureOf, findCaller, tokenOf } from "./callers.ts";
import { framingOf } from "./headers.ts";
import { createEndpointRenamer } from "./mcp-endpoint.ts";
import { requestHeaders, responseHeaders } from "./mcp-headers.ts";
import { createMcpUpstream, type McpUpstream } from "./mcp-upstream.ts";
import type { Outbound } from "./outbound.ts";

/** An MCP server as the profile names it, with its secrets. */
export type McpTarget = { type: "http" | "sse"; url: string; headers: Record<string, string> };

export type McpLimits = {
  /** Of a request. Default 4 MiB. */
  bodyBytes: number;
  /** Open requests of one session, streams included. Default 64. */
  requests: number;
  /** Milliseconds without a byte after which a request is cut. Default 1,800,000: a tool may take its time. */
  idleMs: number;
};

export type McpGatewayDeps = CallerDeps & {
  /** The http or sse server of that name in the session's profile. */
  findServer(session: Caller, name: string): Promise<McpTarget | undefined>;
  dial: Outbound["dial"];
  limits?: Partial<McpLimits>;
  log: Log;
};

export type McpGateway = { handle(request: IncomingMessage, response: ServerResponse): void; close(): void };

/** Where the messages of one open SSE stream go. Known to one session by a name that cannot be guessed. */
type Endpoint = { sessionId: string; server: string; url: URL };

type Gateway = McpGatewayDeps & { limits: McpLimits; upstream: McpUpstream; endpoints: Map<string, Endpoint>; open: Map<string, number> };

/** One request and everything it was found to be about. */
type Exchange = { session: Caller; name: string; target: McpTarget; url: URL; request: IncomingMessage; response: ServerResponse };

const defaultLimits: McpLimits = { bodyBytes: 4 * 1024 * 1024, requests: 64, idleMs: 1_800_000 };
const path = /^\/mcp\/([A-Za-z0-9_-]{1,64})(?:\/([A-Za-z0-9_-]{22}))?$/;

/** The sandbox's way to the MCP servers of its profile (design D7): by name, with headers that the sandbox never sees. */
export function createMcpGateway(deps: McpGatewayDeps): McpGateway {
  const gateway: Gateway = {
    ...deps,
    limits: { ...defaultLimits, ...deps.limits },
    upstream: createMcpUpstream(deps.dial),
    endpoints: new Map(),
    open: new Map(),
  };
  return {
    handle(request, response) {
      relay(gateway, request, response).catch((error: Error) => {
        deps.log.error({ err: error }, "MCP gateway failed");
        const { status, text } = failureOf(error);
        refuse(response, status, text);
      });
    },
    close: gateway.upstream.close,
  };
}

async function relay(gateway: Gateway, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const session = await findCaller(gateway, request, tokenOf(request));
  if (!session) return refuse(response, 401, "this token opens nothing here");
  const [, name, stream] = path.exec(request.url ?? "") ?? [];
  const target = name === undefined ? undefined : await gateway.findServer(session, name);
  if (name === undefined || !target) return refuse(response, 404, "the session's profile has no http or sse server of this name");
  const url = stream === undefined ? URL.parse(target.url) : endpointUrl(gateway, session, name, stream);
  if (!url) return refuse(response, 404, "this stream is closed");
  const problem = problemOf(gateway.limits, request, target.type, stream !== undefined);
  if (problem) return refuse(response, ...problem);
  if (!enter(gateway, session, response)) return refuse(response, 429, "this session has too many open MCP requests");
  if (!response.destroyed) send(gateway, { session, name, target, url, request, response });
}

function problemOf(
  limits: McpLimits,
  request: IncomingMessage,
  type: "http" | "sse",
  isMessage: boolean,
): [status: number, text: string] | undefined {
  const methods = isMessage ? ["POST"] : type === "sse" ? ["GET"] : ["GET", "POST", "DELETE"];
  if (!methods.includes(request.method ?? "")) return [405, `here the method is ${methods.join(" or ")}`];
  const framing = framingOf(request.headers);
  if (framing === "refused") return [400, "the only transfer coding is chunked, and without a content length"];
  const length = Number(request.headers["content-length"] ?? 0);
  if (request.method !== "POST" && (framing === "chunked" || length > 0)) return [400, "only POST has a body"];
  return length > limits.bodyBytes ? tooLarge(limits) : undefined;
}

function tooLarge({ bodyBytes }: McpLimits): [status: number, text: string] {
  return [413, `a message has at most ${bodyBytes} bytes`];
}

function endpointUrl({ endpoints }: Gateway, session: Caller, server: string, stream: string): URL | undefined {
  const endpoint = endpoints.get(stream);
  return endpoint?.sessionId === session.sessionId && endpoint.server === server ? endpoint.url : undefined;
}

/** Counts a request until its answer is over. */
function enter({ open, limits }: Gateway, { sessionId }: Caller, response: ServerResponse): boolean {
  const count = open.get(sessionId) ?? 0;
  if (count >= limits.requests) return false;
  if (response.destroyed) return true;
  open.set(sessionId, count + 1);
  response.once("close", () => {
    const left = (open.get(sessionId) ?? 1) - 1;
    if (left > 0) open.set(sessionId, left);
    else open.delete(sessionId);
  });
  return true;
}

function send(gateway: Gateway, exchange: Exchange): void {
  const { session, target, url, request, response } = exchange;
  const { limits } = gateway;
  try {
    const upstream = gateway.upstream.request(session.sessionId, url, {
      method: request.method ?? "GET",
      headers: requestHeaders(request, target.headers),
    });
    upstream.setTimeout(limits.idleMs, () => upstream.destroy(new Error("idle for too long")));
    upstream.on("error", (error) => fail(gateway, exchange, error));
    upstream.on("upgrade", () => upstream.destroy(new Error("switched protocols unasked")));
    upstream.on("response", (answer) => passBack(gateway, exchange, answer));
    response.once("close", () => upstream.destroy());
    if (request.method !== "POST") return void upstream.end();
    const limiter = limitBody(limits.bodyBytes, () => {
      refuse(response, ...tooLarge(limits));
      upstream.destroy();
    });
    // Not a pipeline: that would take the client's connection, and with it the refusal, along with a server that fails.
    request.pipe(limiter).pipe(upstream);
  } catch (error) {
    // A header of the profile that no message can carry. Its value is a secret, so the error stays unsaid.
    gateway.log.info(
      { session_id: session.sessionId, mcp_server: exchange.name, code: (error as NodeJS.ErrnoException).code },
      "MCP request not possible",
    );
    refuse(response, 502, "a header or the URL of this server in the profile cannot be sent");
  }
}

/** What goes beyond `most` bytes is dropped. `exceeded` is called once. */
function limitBody(most: number, exceeded: () => void): Transform {
  let size = 0;
  return new Transform({
    transform(chunk: Uint8Array, _encoding, done) {
      const before = size;
      size += chunk.length;
      if (size <= most) return done(null, chunk);
      if (before <= most) exceeded();
      done();
    },
  });
}

function passBack(gateway: Gateway, exchange: Exchange, answer: IncomingMessage): void {
  const { session, target, request, response } = exchange;
  const status = answer.statusCode ?? 502;
  if (response.headersSent) return void answer.destroy();
  const isStream = target.type === "sse" && request.method === "GET" && status === 200;
  const problem =
    status >= 300 && status < 400
      ? "this server redirects: put the URL it redirects to into the profile"
      : isStream
        ? streamProblem(answer)
        : undefined;
  if (problem) {
    answer.destroy();
    return refuse(response, 502, problem);
  }
  response.writeHead(status, responseHeaders(answer));
  response.flushHeaders();
  const done = (error: NodeJS.ErrnoException | null | undefined): void => {
    if (error) gateway.log.debug({ session_id: session.sessionId, mcp_server: exchange.name, error: error.message }, "MCP answer cut");
  };
  if (!isStream) return void pipeline(answer, response, done);
  const stream = randomBytes(16).toString("base64url");
  response.once("close", () => gateway.endpoints.delete(stream));
  const renamer = createEndpointRenamer((data) => announce(gateway, exchange, stream, data));
  pipeline(answer, renamer, response, done);
}

function streamProblem({ headers }: IncomingMessage): string | undefined {
  if (headers["content-encoding"] !== undefined && headers["content-encoding"] !== "identity")
    return "this server compresses its event stream unasked";
  return /^text\/event-stream\s*(;|$)/i.test(headers["content-type"] ?? "")
    ? undefined
    : "this server does not answer with an event stream";
}

/** Gives the address for messages that an SSE server announces a name of ours. Only that address is then open, while the stream is. */
function announce({ endpoints, log }: Gateway, { session, name, url }: Exchange, stream: string, data: string): string {
  const announced = URL.parse(data, url);
  if (announced?.origin !== url.origin || announced.username !== "" || announced.password !== "") {
    log.info({ session_id: session.sessionId, mcp_server: name }, "MCP endpoint of another origin refused");
    throw new Error("the server announced an endpoint of another origin");
  }
  endpoints.set(stream, { sessionId: session.sessionId, server: name, url: announced });
  return `/mcp/${name}/${stream}`;
}

function fail({ log }: Gateway, { session, name, response }: Exchange, error: NodeJS.ErrnoException): void {
  if (response.destroyed || response.writableEnded) return;
  log.info({ session_id: session.sessionId, mcp_server: name, code: error.code, error: error.message }, "MCP server not reached");
  const isPrivate = error.code === "private_address";
  refuse(
    response,
    isPrivate ? 403 : 502,
    isPrivate ? "this server is at a private or special address, which only the operator can open" : "this server could not be reached",
  );
}

/** A JSON-RPC error without a request, which clients of every transport can read. */
function refuse(response: ServerResponse, status: number, message: string): void {
  if (response.headersSent) return void response.destroy();
  const body = JSON.stringify({ jsonrpc: "2.0", error: { code: -32_000, message: `Carrel: ${message}` }, id: null });
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(body) });
  response.end(body);
}
