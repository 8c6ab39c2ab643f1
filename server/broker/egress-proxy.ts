import { type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import type net from "node:net";
import type { Duplex } from "node:stream";
import type { Log } from "../log.ts";
import { type Caller, type CallerDeps, failureOf, findCaller, proxyTokenOf } from "./callers.ts";
import { type EgressDecision, type EgressReason, judge, parseAbsoluteUri, type Refusal, refusalOf } from "./egress-rules.ts";
import { createEgressSessions, defaultEgressLimits, type EgressLimits, type EgressSessions } from "./egress-sessions.ts";
import { forwardRequest } from "./forward-request.ts";
import { framingOf } from "./headers.ts";
import { parseAuthority, type Target } from "./host-pattern.ts";
import type { Outbound } from "./outbound.ts";
import { joinConnections } from "./tunnel.ts";

export type EgressProxyDeps = CallerDeps & {
  /** The session's `allowed_hosts`. */
  allowedHosts(session: Caller): Promise<readonly string[]>;
  outbound: Outbound;
  /** Told of every connection that was opened, and of one denial per host and minute. Must not throw. */
  onDecision(session: Caller, decision: EgressDecision): void;
  limits?: Partial<EgressLimits>;
  log: Log;
};

export type EgressProxy = {
  /** A request whose target is an absolute URI. */
  handleRequest(request: IncomingMessage, response: ServerResponse): void;
  /** The `connect` event of the HTTP server. */
  handleConnect(request: IncomingMessage, socket: Duplex, head: Uint8Array): void;
  /** Cuts every open connection. */
  close(): void;
};

type Proxy = EgressProxyDeps & { limits: EgressLimits; sessions: EgressSessions; open: Set<net.Socket> };

/** An open connection and the place it takes, which is given back when it closes. */
type Opened = { socket: net.Socket };

const unauthenticated: Refusal = { status: 407, text: "this proxy is for the sessions of Carrel" };
const tooMany: Refusal = { status: 429, text: "this session has too many connections: try again in a minute" };
const malformedTarget: Refusal = { status: 400, text: "CONNECT needs host:port, the host as an ASCII name or an address" };
const malformedUri: Refusal = {
  status: 400,
  text: "the proxy takes http://host[:port]/path, without user information; for https use CONNECT",
};
const malformedBody: Refusal = { status: 400, text: "the only transfer coding is chunked, and without a content length" };

/** The sandbox's way to the hosts that its profile lists (design D7). What is judged is what is dialled. */
export function createEgressProxy(deps: EgressProxyDeps): EgressProxy {
  const limits = { ...defaultEgressLimits, ...deps.limits };
  const proxy: Proxy = { ...deps, limits, sessions: createEgressSessions(limits, () => performance.now()), open: new Set() };
  return {
    handleRequest(request, response) {
      relay(proxy, request, response).catch((error: Error) => {
        deps.log.error({ err: error }, "egress proxy failed");
        answer(response, failureOf(error));
      });
    },
    handleConnect(request, socket, head) {
      // Before anything is awaited: the client may end its half, or fail, at any time.
      socket.allowHalfOpen = true;
      socket.on("error", (error) => deps.log.debug({ error: error.message }, "egress client failed"));
      tunnel(proxy, request, socket, head).catch((error: Error) => {
        deps.log.error({ err: error }, "egress proxy failed");
        answerRaw(socket, failureOf(error));
      });
    },
    close() {
      for (const socket of proxy.open) socket.destroy();
    },
  };
}

async function tunnel(proxy: Proxy, request: IncomingMessage, socket: Duplex, head: Uint8Array): Promise<void> {
  const gone = goneSignal(socket);
  const session = await findCaller(proxy, request, proxyTokenOf(request));
  if (!session) return answerRaw(socket, unauthenticated);
  const target = parseAuthority(request.url ?? "");
  if (!target) return answerRaw(socket, malformed(proxy, session, malformedTarget));
  const opened = await open(proxy, session, target, gone);
  if (!("socket" in opened)) return answerRaw(socket, opened);
  // Its close has passed already, so joining would wait for it in vain.
  if (socket.destroyed) return void opened.socket.destroy();
  socket.write("HTTP/1.1 200 Connection Established\r\n\r\n");
  if (head.length > 0) opened.socket.write(head);
  joinConnections(socket, opened.socket, proxy.limits.idleMs, () => undefined);
}

async function relay(proxy: Proxy, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const gone = goneSignal(response);
  const session = await findCaller(proxy, request, proxyTokenOf(request));
  if (!session) return answer(response, unauthenticated);
  const asked = parseAbsoluteUri(request.url ?? "");
  if (!asked) return answer(response, malformed(proxy, session, malformedUri));
  if (framingOf(request.headers) === "refused") return answer(response, malformed(proxy, session, malformedBody));
  const opened = await open(proxy, session, asked.target, gone);
  if (!("socket" in opened)) return answer(response, opened);
  if (response.destroyed) return void opened.socket.destroy();
  forwardRequest({ ...asked, socket: opened.socket, idleMs: proxy.limits.idleMs }, request, response, (error) => {
    proxy.log.info({ session_id: session.sessionId, host: asked.target.host.text, error: error.message }, "egress request cut");
    answer(response, { status: 502, text: `${asked.target.host.text} did not answer properly` });
  });
}

/** Decides, dials, and counts. */
async function open(proxy: Proxy, session: Caller, target: Target, gone: AbortSignal): Promise<Opened | Refusal> {
  const release = proxy.sessions.admit(session.sessionId);
  if (!release) return tooMany;
  let opened: Opened | undefined;
  try {
    const outcome = await judgeAndDial(proxy, session, target, gone);
    if (!("socket" in outcome)) return refuse(proxy, session, target, outcome.failure, outcome.detail);
    opened = { socket: outcome.socket };
    tell(proxy, session, target, "listed");
    return opened;
  } finally {
    if (opened) hold(proxy, opened.socket, release);
    else release();
  }
}

type Outcome = { socket: net.Socket } | { failure: Exclude<EgressReason, "listed">; detail?: string };

async function judgeAndDial({ allowedHosts, outbound }: Proxy, session: Caller, target: Target, gone: AbortSignal): Promise<Outcome> {
  const verdict = judge(await allowedHosts(session), target, outbound.isOpened(target.host, target.port));
  return verdict === "listed" ? outbound.dial(target.host, target.port, gone) : { failure: verdict };
}

function refuse(proxy: Proxy, session: Caller, target: Target, reason: Exclude<EgressReason, "listed">, detail?: string): Refusal {
  tell(proxy, session, target, reason, detail);
  return refusalOf(reason, target);
}

function tell({ log, sessions, onDecision }: Proxy, session: Caller, { host, port }: Target, reason: EgressReason, detail?: string): void {
  const allowed = reason === "listed";
  log.info(
    { session_id: session.sessionId, host: host.text, port, verdict: reason, ...(detail === undefined ? {} : { detail }) },
    allowed ? "egress allowed" : "egress denied",
  );
  if (allowed || sessions.isNews(session.sessionId, host.text)) onDecision(session, { host: host.text, port, allowed, reason });
}

/** Nothing of the target is logged: it has no reading, so it has no name. */
function malformed({ log, sessions }: Proxy, session: Caller, refusal: Refusal): Refusal {
  const release = sessions.admit(session.sessionId);
  if (!release) return tooMany;
  release();
  log.info({ session_id: session.sessionId, verdict: "malformed" }, "egress denied");
  return refusal;
}

function hold({ open: held }: Proxy, socket: net.Socket, release: () => void): void {
  held.add(socket);
  socket.once("close", () => {
    held.delete(socket);
    release();
  });
}

/** Aborts when the client has gone, so that nothing more is dialled for it. */
function goneSignal(client: Duplex | ServerResponse): AbortSignal {
  const gone = new AbortController();
  client.once("close", () => gone.abort());
  return gone.signal;
}

function answer(response: ServerResponse, { status, text }: Refusal): void {
  if (response.headersSent) return void response.destroy();
  const body = `Carrel: ${text}\n`;
  response.writeHead(status, {
    "content-type": "text/plain; charset=utf-8",
    "content-length": Buffer.byteLength(body),
    ...challenge(status),
  });
  response.end(body);
}

/** The HTTP server has let go of a CONNECT's socket, so its answer is written by hand; and it is the last. */
function answerRaw(socket: Duplex, { status, text }: Refusal): void {
  const body = `Carrel: ${text}\n`;
  const headers = {
    "Content-Type": "text/plain; charset=utf-8",
    "Content-Length": Buffer.byteLength(body),
    Connection: "close",
    ...challenge(status),
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join("")}\r\n${body}`);
  // Read and dropped: unread bytes would turn the end into a reset, and the client might not see why.
  socket.resume();
  const timer = setTimeout(() => socket.destroy(), 5_000);
  socket.once("close", () => clearTimeout(timer));
}

function challenge(status: number): Record<string, string> {
  return status === 407 ? { "proxy-authenticate": 'Basic realm="Carrel"' } : {};
}
