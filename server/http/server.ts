import { createServer as createHttp1Server, type RequestListener, type Server, type ServerOptions, type ServerResponse } from "node:http";
import { createServer as createHttp2Server, type Http2Server, type ServerHttp2Session } from "node:http2";
import { createServer as createHttpsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import type { DescService } from "@bufbuild/protobuf";
import type { ConnectRouter, Interceptor } from "@connectrpc/connect";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../errors.ts";
import type { Log } from "../log.ts";
import { createDispatch, type Fallback } from "./dispatch.ts";
import type { ReadyCheck } from "./health.ts";
import { guardHttp2 } from "./http2-guard.ts";
import { defaultHttpLimits, type HttpLimits } from "./limits.ts";
import type { HttpRequest, HttpResponse } from "./message.ts";
import { createOrigins } from "./origins.ts";
import { peekProtocol } from "./preface.ts";
import { answerToParserError, writeRawAnswer } from "./raw-answers.ts";
import { createSilentConnections } from "./silent-connections.ts";
import { createSurfaces, type RequestGate } from "./surfaces.ts";
import { createUpgradeRouter, type UpgradeHandler, wantsWebSocket } from "./upgrade.ts";

/** What the one port serves, and how. */
export type HttpServerOptions = {
  /** The services of the contract: for reflection, `/openapi`, health and the authorization check. */
  services: readonly DescService[];
  /** Registers whole services. */
  routes: (router: ConnectRouter) => void;
  /** Run inside the log interceptor, first is outermost. Not for health and reflection. */
  interceptors: Interceptor[];
  /** Runs on every call of `routes` before its body is read; throws a ConnectError to refuse. */
  requestGate?: RequestGate;
  /** Parts of the default limits to change. */
  limits?: Partial<HttpLimits>;
  /** Browser origins besides the server's own. */
  allowedOrigins: readonly string[];
  /** The address people use, where it is another than the one listened on. */
  publicUrl?: string | undefined;
  log: Log;
  ready: ReadyCheck;
  /** Takes WebSocket handshakes on the session paths. Default: they are refused. */
  onUpgrade?: UpgradeHandler;
  /** Answers every path that is not of the API. Default: 404. */
  fallback?: Fallback;
  /** PEM texts. Default: clear text. */
  tls?: { key: string | Buffer; cert: string | Buffer };
  /** Where to listen. Port 0 takes any free one. */
  address: { host: string; port: number } | { socketPath: string };
};

/** The one port. */
export type HttpServer = {
  /** Opens it and says where: a Unix socket as its path and port 0. Rejects when the address is taken. */
  listen(): Promise<{ host: string; port: number }>;
  /** Stops taking connections, ends streams at once, gives unary calls `graceMs`, then cuts what is left. Safe to repeat. */
  close(graceMs: number): Promise<void>;
};

/** How long refusals at the end of the grace have to be written. */
const lastWordsMs = 100;

/** gRPC, gRPC-Web, Connect, REST, WebSocket handshakes and everything else of the port, over HTTP/1.1 and HTTP/2. */
export function createHttpServer(options: HttpServerOptions): HttpServer {
  const limits: HttpLimits = { ...defaultHttpLimits, ...options.limits };
  const draining = new AbortController();
  const stopping = new AbortController();
  const origins = createOrigins(options.allowedOrigins, options.publicUrl, options.tls !== undefined);
  const surfaces = createSurfaces({ ...options, limits, drainSignal: draining.signal, shutdownSignal: stopping.signal });
  const { log, ready, fallback } = options;
  const dispatch = createDispatch({ ...surfaces, origins, ready, fallback, limits, log });
  const http1 = createFront(options.tls, limits, dispatch);
  const http2 = createHttp2(limits, dispatch);
  const sessions = new Set<ServerHttp2Session>();
  const connections: Connections = { open: new Set(), silent: new Set() };

  guardHttp2(http2, limits, surfaces.mayStayOpen);
  http2.on("session", (session) => {
    sessions.add(session);
    session.once("close", () => sessions.delete(session));
  });
  http1.on("upgrade", createUpgradeRouter(origins, options.onUpgrade));
  splitConnections(http1, http2, limits, connections, options.tls !== undefined);

  return {
    async listen() {
      const where = await listen(http1, options.address);
      // A port that cannot take one connection, for want of descriptors, goes on taking others.
      http1.on("error", (error) => log.error({ err: error }, "the port reported an error"));
      return where;
    },
    close: (graceMs) => close({ http1, sessions, connections, draining, stopping }, graceMs),
  };
}

type Running = {
  http1: Server;
  sessions: Set<ServerHttp2Session>;
  connections: Connections;
  draining: AbortController;
  stopping: AbortController;
};

async function close({ http1, sessions, connections, draining, stopping }: Running, graceMs: number): Promise<void> {
  const reason = () => refusal(ErrorReason.SHUTTING_DOWN, "this server is shutting down, connect again");
  const closed = new Promise<void>((resolve) => http1.close(() => resolve()));
  draining.abort(reason());
  for (const session of sessions) session.close();
  for (const socket of connections.silent) socket.destroy();
  // Again and again, because Node lets a connection that becomes idle later wait for its keep-alive.
  const idle = setInterval(() => http1.closeIdleConnections(), 25);
  let cut = setTimeout(() => {
    stopping.abort(reason());
    cut = setTimeout(() => connections.open.forEach((socket) => socket.destroy()), lastWordsMs);
  }, graceMs);
  await closed;
  clearInterval(idle);
  clearTimeout(cut);
  stopping.abort(reason());
}

type Dispatch = (request: HttpRequest, response: HttpResponse) => void;

// The HTTP/1.1 server does the listening, because its own timeouts only run in a server that listens.
function createFront(tls: HttpServerOptions["tls"], limits: HttpLimits, dispatch: Dispatch): Server {
  const settings: ServerOptions = {
    maxHeaderSize: limits.headerBytes,
    headersTimeout: limits.headersTimeoutMs,
    requestTimeout: limits.bodyTimeoutMs,
    keepAliveTimeout: limits.idleTimeoutMs,
    connectionsCheckingInterval: Math.max(20, Math.min(1000, limits.headersTimeoutMs / 4, limits.bodyTimeoutMs / 4)),
    keepAlive: true,
    keepAliveInitialDelay: 60_000,
    noDelay: true,
    requireHostHeader: true,
    insecureHTTPParser: false,
    shouldUpgradeCallback: wantsWebSocket,
  };
  const answering = new WeakMap<Duplex, ServerResponse>();
  const listener: RequestListener = (request, response) => {
    answering.set(request.socket, response);
    dispatch(request, response);
  };
  const server = tls
    ? createHttpsServer(
        { ...settings, ...tls, ALPNProtocols: ["h2", "http/1.1"], minVersion: "TLSv1.2", handshakeTimeout: limits.headersTimeoutMs },
        listener,
      )
    : createHttp1Server(settings, listener);
  server.maxConnections = limits.connections;
  server.maxHeadersCount = 100;
  server.timeout = limits.stalledTimeoutMs;
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Duplex) => {
    const current = answering.get(socket);
    // An answer has begun: text of another would corrupt it.
    if ((current?.headersSent && !current.writableFinished) || error.code?.startsWith("ERR_SSL")) socket.destroy();
    else writeRawAnswer(socket, answerToParserError(error.code));
  });
  return server;
}

function createHttp2(limits: HttpLimits, dispatch: Dispatch): Http2Server {
  return createHttp2Server(
    {
      maxSessionMemory: limits.connectionMemoryMiB,
      maxHeaderListPairs: 100,
      maxOutstandingPings: 10,
      maxSettings: 32,
      maxSessionInvalidFrames: 100,
      maxSessionRejectedStreams: 100,
      streamResetBurst: limits.streamResetBurst,
      streamResetRate: limits.streamResetRate,
      settings: { maxConcurrentStreams: limits.streamsPerConnection, maxHeaderListSize: limits.headerBytes, enablePush: false },
    },
    dispatch,
  );
}

/** The sockets of the port; those in `silent` have sent nothing yet. */
type Connections = { open: Set<Socket>; silent: Set<Socket> };

// Every connection is accepted by `http1`, whose own listener gets only those that speak HTTP/1.1.
function splitConnections(http1: Server, http2: Http2Server, limits: HttpLimits, connections: Connections, secure: boolean): void {
  const silent = createSilentConnections(limits.silentConnectionsPerAddress);
  const event = secure ? "secureConnection" : "connection";
  const [serveHttp1] = http1.listeners(event) as ((socket: Socket) => void)[];
  if (!serveHttp1) throw new Error("this Node.js has no listener for HTTP/1.1 connections");
  http1.removeAllListeners(event);
  const hand = (socket: Socket, isHttp2: boolean): void => {
    silent.spoke(socket);
    if (isHttp2) {
      // HTTP/1.1's listener leaves the connection of a client that has finished sending open. HTTP/2 has no such thing, and
      // would keep the streams of a client that is gone.
      socket.allowHalfOpen = false;
      http2.emit("connection", socket);
    } else serveHttp1.call(http1, socket);
  };
  http1.prependListener("connection", (socket: Socket) => {
    connections.open.add(socket);
    socket.once("close", () => connections.open.delete(socket));
    // A reset by the peer before any protocol took over would otherwise be an uncaught error.
    socket.on("error", () => socket.destroy());
    if (!silent.admit(socket)) socket.destroy();
  });
  if (secure) {
    http1.on(event, (socket: TLSSocket) => hand(socket, socket.alpnProtocol === "h2"));
    return;
  }
  http1.on(event, (socket: Socket) => {
    if (socket.destroyed) return;
    connections.silent.add(socket);
    void peekProtocol(socket, limits.headersTimeoutMs).then((first) => {
      connections.silent.delete(socket);
      if (first === "silent" || socket.destroyed) socket.destroy();
      else hand(socket, first === "http2");
    });
  });
}

function listen(server: Server, where: HttpServerOptions["address"]): Promise<{ host: string; port: number }> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen("socketPath" in where ? { path: where.socketPath } : where, () => {
      server.off("error", reject);
      if ("socketPath" in where) return resolve({ host: where.socketPath, port: 0 });
      const { address, port } = server.address() as AddressInfo;
      resolve({ host: address, port });
    });
  });
}
