import { Readable } from "node:stream";
import { Code, ConnectError, type ContextValues } from "@connectrpc/connect";
import { createAsyncIterable, type UniversalServerRequest } from "@connectrpc/connect/protocol";
import { authorityOf, type HttpRequest, type HttpResponse, webHeadersOf } from "./message.ts";

/**
 * A request in the form of Connect's handlers. Unlike the library's own it leaves the connection alone when a handler
 * stops reading, and its signal stays quiet when a call ends well: an abort per call costs a stack trace each.
 */
export function universalRequestOf(request: HttpRequest, response: HttpResponse, contextValues: ContextValues): UniversalServerRequest {
  return {
    httpVersion: request.httpVersion,
    method: request.method ?? "",
    url: `http://${authorityOf(request)}${request.url ?? ""}`,
    header: webHeadersOf(request),
    body: bodyOf(request),
    signal: departureOf(response),
    contextValues,
  };
}

/** A signal that is aborted when the client leaves before its answer is complete. */
export function departureOf(response: HttpResponse): AbortSignal {
  const controller = new AbortController();
  response.once("close", () => {
    if (!response.writableEnded) controller.abort(new ConnectError("the client went away", Code.Canceled));
  });
  return controller.signal;
}

// Not owned, because destroying a request that is not read to its end cuts an HTTP/1.1 connection before the refusal is written.
function bodyOf(request: HttpRequest): AsyncIterable<Uint8Array> {
  if (request.readableEnded) return createAsyncIterable([]);
  return Readable.prototype.iterator.call(request, { destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
}
