import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";

/** A request of either HTTP version. */
export type HttpRequest = IncomingMessage | Http2ServerRequest;

/** A response of either HTTP version. */
export type HttpResponse = ServerResponse | Http2ServerResponse;

/** Path and query of a request target; the query is without its question mark. */
export type Target = { path: string; query: string };

/** Splits a request target, also in its absolute form. Undefined when it is neither. */
export function targetOf(url: string | undefined): Target | undefined {
  if (!url) return undefined;
  const relative = url.startsWith("/") ? url : url.replace(/^https?:\/\/[^/?#]+/i, "");
  if (!relative.startsWith("/")) return undefined;
  const mark = relative.indexOf("?");
  return mark < 0 ? { path: relative, query: "" } : { path: relative.slice(0, mark), query: relative.slice(mark + 1) };
}

/** The authority a client addressed, for example `localhost:8080`; empty when it named none. */
export function authorityOf(request: HttpRequest): string {
  if ("authority" in request && request.authority) return request.authority;
  return request.headers.host ?? "";
}

/** The header of either version as a web Headers object, without HTTP/2's pseudo headers. */
export function webHeadersOf(request: HttpRequest): Headers {
  const headers = new Headers();
  for (const [name, value] of Object.entries(request.headers)) {
    if (value === undefined || name.startsWith(":")) continue;
    if (typeof value === "string") headers.append(name, value);
    else for (const one of value) headers.append(name, one);
  }
  return headers;
}

/** True once nothing more can be said on a response. */
export function isOver(response: HttpResponse): boolean {
  return response.writableEnded || response.destroyed || ("stream" in response && (response.stream?.destroyed ?? true));
}

/** Sends a whole JSON answer; without its body to HEAD. Does nothing on a response that is over. */
export function sendJson(request: HttpRequest, response: HttpResponse, status: number, body: unknown): void {
  if (isOver(response) || response.headersSent) return;
  const bytes = Buffer.from(JSON.stringify(body));
  response.statusCode = status;
  response.setHeader("content-type", "application/json");
  response.setHeader("content-length", bytes.byteLength);
  if (request.method === "HEAD") response.end();
  else response.end(bytes);
}
