import type { IncomingMessage, OutgoingHttpHeaders } from "node:http";
import { isOfConnection, passedHeaders } from "./headers.ts";

/** What the agent may say; above all not who it is. The protocol's own headers begin with `mcp-`. */
const passedOn = /^(?:accept|accept-language|content-type|content-length|last-event-id|user-agent|traceparent|tracestate|mcp-[a-z0-9-]+)$/;

/** What a server may say. Neither cookies, nor where to go next, nor whom to ask for a token. */
const passedBack = /^(?:content-type|content-length|content-encoding|cache-control|retry-after|x-accel-buffering|mcp-[a-z0-9-]+)$/;

/** Headers of a request to an MCP server: the agent's own words, then the profile's, which win. */
export function requestHeaders(request: IncomingMessage, ofProfile: Record<string, string>): OutgoingHttpHeaders {
  const headers: OutgoingHttpHeaders = only(passedHeaders(request), passedOn);
  for (const [name, value] of Object.entries(ofProfile)) {
    if (!isOfConnection(name) && name.toLowerCase() !== "content-length") headers[name.toLowerCase()] = value;
  }
  // The stream of an SSE server is read on its way, so it must come as it is.
  headers["accept-encoding"] = "identity";
  return headers;
}

export function responseHeaders(answer: IncomingMessage): OutgoingHttpHeaders {
  return only(passedHeaders(answer), passedBack);
}

function only(headers: Record<string, string[]>, pattern: RegExp): OutgoingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => pattern.test(name)));
}
