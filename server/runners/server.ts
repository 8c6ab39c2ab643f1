import http, { type IncomingMessage, type ServerResponse } from "node:http";
import http2, { type Http2ServerRequest, type Http2Session } from "node:http2";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { type ConnectRouter, createContextValues, type Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { RunnerService } from "../../gen/carrel/runner/v1/runner_service_pb.ts";
import type { Log } from "../log.ts";
import { socketBoxKey } from "./leases.ts";

export type RunnerServerOptions = {
  routes(router: ConnectRouter): void;
  interceptors: Interceptor[];
  /** Tells HTTP/2 from HTTP/1.1 by the first bytes. */
  peekProtocol(socket: Socket, timeoutMs: number): Promise<"http1" | "http2" | "silent">;
  /** Gives runners their snapshots. */
  snapshots: Door;
  /** The doors of the broker: to the model, to tool servers, and to hosts of the network. */
  doors: {
    model: Door;
    mcp: Door;
    proxy: Door;
    connect(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  };
  log: Log;
};

type Door = (request: IncomingMessage, response: ServerResponse) => void;

export type RunnerServer = {
  /** Serves a connection that came through the socket of a box. */
  accept(socket: Socket, box: string): void;
  /** The box whose sandbox sent a request. */
  boxOf(request: IncomingMessage | Http2ServerRequest): string | undefined;
  close(): void;
};

/** By the raw request target: the runner's own calls and its snapshots, a path of the tool servers, an absolute address for the proxy, and all else is the model's to refuse. */
function doorOf(target: string, rpc: Door, { doors, snapshots }: RunnerServerOptions): Door {
  if (target.startsWith(`/${RunnerService.typeName}/`)) return rpc;
  if (target.startsWith("/snapshots/")) return snapshots;
  if (target.startsWith("/mcp/")) return doors.mcp;
  return /^[a-z][a-z0-9+.-]*:/i.test(target) ? doors.proxy : doors.model;
}

const peekTimeoutMs = 10_000;
const messageBytes = 4 * 1024 * 1024;
/** A manifest holds a whole memory bank, which may be 5 MiB. */
const answerBytes = 8 * 1024 * 1024;

/** What sandboxes talk to: the runner's own service, its bulk and the agent's requests over HTTP/1.1, the rest over HTTP/2. No port, only sockets. */
export function createRunnerServer(options: RunnerServerOptions): RunnerServer {
  const boxOfSocket = new WeakMap<Socket, string>();
  const boxOfHttp2 = new WeakMap<Http2Session, string>();
  const shutdown = new AbortController();
  let accepting: string | undefined;

  const boxOf = (request: IncomingMessage | Http2ServerRequest): string | undefined =>
    "stream" in request ? request.stream.session && boxOfHttp2.get(request.stream.session) : boxOfSocket.get(request.socket);

  const rpc = connectNodeAdapter({
    routes: options.routes,
    interceptors: options.interceptors,
    readMaxBytes: messageBytes,
    writeMaxBytes: answerBytes,
    shutdownSignal: shutdown.signal,
    contextValues: (request) => createContextValues().set(socketBoxKey, boxOf(request)),
  });
  const broker = http.createServer({ requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 300_000 }, (request, response) =>
    doorOf(request.url ?? "", rpc, options)(request, response),
  );
  broker.on("connect", options.doors.connect);
  const runners = http2.createServer({ maxSessionMemory: 32, settings: { maxConcurrentStreams: 100 } }, (request, response) =>
    rpc(request, response),
  );
  runners.on("session", (session) => {
    if (accepting !== undefined) boxOfHttp2.set(session, accepting);
    session.on("error", (error) => options.log.debug({ error: error.message }, "runner connection failed"));
  });

  return {
    boxOf,
    accept(socket, box) {
      boxOfSocket.set(socket, box);
      options.peekProtocol(socket, peekTimeoutMs).then(
        (protocol) => {
          if (protocol === "silent") return socket.destroy();
          // The HTTP/2 session is made, and announced, while this call runs.
          accepting = box;
          (protocol === "http2" ? runners : broker).emit("connection", socket);
          accepting = undefined;
        },
        (error: Error) => {
          options.log.debug({ box, error: error.message }, "sandbox connection failed");
          socket.destroy();
        },
      );
    },
    close() {
      shutdown.abort();
      broker.closeAllConnections();
      broker.close();
      runners.close();
    },
  };
}
