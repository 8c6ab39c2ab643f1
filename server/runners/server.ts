import http, { type IncomingMessage, type ServerResponse } from "node:http";
import http2, { type Http2ServerRequest, type Http2Session } from "node:http2";
import type { Socket } from "node:net";
import { type ConnectRouter, createContextValues, type Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { Log } from "../log.ts";
import { socketSessionKey } from "./leases.ts";

export type RunnerServerOptions = {
  routes(router: ConnectRouter): void;
  interceptors: Interceptor[];
  /** Tells HTTP/2 from HTTP/1.1 by the first bytes. */
  peekProtocol(socket: Socket, timeoutMs: number): Promise<"http1" | "http2" | "silent">;
  /** Takes the agent's model requests. */
  onModelRequest(request: IncomingMessage, response: ServerResponse): void;
  log: Log;
};

export type RunnerServer = {
  /** Serves a connection that came through the socket of one session's sandbox. */
  accept(socket: Socket, sessionId: string): void;
  /** The session whose sandbox sent a request. */
  sessionOf(request: IncomingMessage | Http2ServerRequest): string | undefined;
  close(): void;
};

const peekTimeoutMs = 10_000;
const messageBytes = 4 * 1024 * 1024;

/** What sandboxes talk to: the runner's own service over HTTP/2, the agent's model requests over HTTP/1.1. No port, only sockets. */
export function createRunnerServer(options: RunnerServerOptions): RunnerServer {
  const sessionOfSocket = new WeakMap<Socket, string>();
  const sessionOfHttp2 = new WeakMap<Http2Session, string>();
  const shutdown = new AbortController();
  let accepting: string | undefined;

  const sessionOf = (request: IncomingMessage | Http2ServerRequest): string | undefined =>
    "stream" in request ? request.stream.session && sessionOfHttp2.get(request.stream.session) : sessionOfSocket.get(request.socket);

  const rpc = connectNodeAdapter({
    routes: options.routes,
    interceptors: options.interceptors,
    readMaxBytes: messageBytes,
    writeMaxBytes: messageBytes,
    shutdownSignal: shutdown.signal,
    contextValues: (request) => createContextValues().set(socketSessionKey, sessionOf(request)),
  });
  const models = http.createServer({ requestTimeout: 0, keepAliveTimeout: 300_000 }, (request, response) => options.onModelRequest(request, response));
  const runners = http2.createServer({ maxSessionMemory: 64 }, (request, response) => rpc(request, response));
  runners.on("session", (session) => {
    if (accepting !== undefined) sessionOfHttp2.set(session, accepting);
    session.on("error", (error) => options.log.debug({ error: error.message }, "runner connection failed"));
  });

  return {
    sessionOf,
    accept(socket, sessionId) {
      sessionOfSocket.set(socket, sessionId);
      options.peekProtocol(socket, peekTimeoutMs).then(
        (protocol) => {
          if (protocol === "silent") return socket.destroy();
          // The HTTP/2 session is made, and announced, while this call runs.
          accepting = sessionId;
          (protocol === "http2" ? runners : models).emit("connection", socket);
          accepting = undefined;
        },
        (error: Error) => {
          options.log.debug({ session_id: sessionId, error: error.message }, "sandbox connection failed");
          socket.destroy();
        },
      );
    },
    close() {
      shutdown.abort();
      models.closeAllConnections();
      models.close();
      runners.close();
    },
  };
}
