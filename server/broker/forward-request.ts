import http, { type IncomingMessage, type OutgoingHttpHeaders, type ServerResponse } from "node:http";
import type net from "node:net";
import { pipeline } from "node:stream";
import { hostHeader } from "./egress-rules.ts";
import { framingOf, passedHeaders } from "./headers.ts";
import type { Target } from "./host-pattern.ts";

export type Forwarding = { target: Target; path: string; socket: net.Socket; idleMs: number };

/**
 * Sends a proxied request over a connection that was opened for it, and its answer back. The message is written anew from what
 * was understood of it, so that the other side cannot understand another. `failed` is called at most once, and not after the
 * answer went through whole.
 */
export function forwardRequest(
  { target, path, socket, idleMs }: Forwarding,
  request: IncomingMessage,
  response: ServerResponse,
  failed: (error: Error) => void,
): void {
  let settled = false;
  const fail = (error: Error): void => {
    socket.destroy();
    if (!settled) failed(error);
    settled = true;
  };
  socket.setTimeout(idleMs, () => socket.destroy());
  response.once("close", () => {
    settled = true;
    socket.destroy();
  });
  const framing = framingOf(request.headers);
  const headers: OutgoingHttpHeaders = { ...passedHeaders(request), host: hostHeader(target) };
  // Said outright, because Node frames the body of a GET by nothing at all.
  if (framing === "chunked") headers["transfer-encoding"] = "chunked";
  try {
    const upstream = http.request({ method: request.method, path, headers, setHost: false, createConnection: () => socket });
    upstream.on("error", (error) => !response.headersSent && fail(error));
    upstream.on("upgrade", () => fail(new Error("switched protocols unasked")));
    upstream.on("response", (answer) => passBack(answer, response, fail));
    if (framing === "none") upstream.end();
    // Not a pipeline: a server may answer, or fail, before it has read everything, and the client is to see that.
    else request.pipe(upstream);
  } catch (error) {
    fail(error as Error);
  }
}

function passBack(answer: IncomingMessage, response: ServerResponse, fail: (error: Error) => void): void {
  try {
    response.writeHead(answer.statusCode ?? 502, passedHeaders(answer));
    response.flushHeaders();
  } catch (error) {
    return fail(error as Error);
  }
  pipeline(answer, response, (error) => error && fail(error));
}
