import type { IncomingHttpHeaders, IncomingMessage } from "node:http";

/** Headers of the connection and not of the message: whoever passes a message on has its own. */
const ofConnection = new Set([
  "connection",
  "expect",
  "host",
  "http2-settings",
  "keep-alive",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);

export function isOfConnection(name: string): boolean {
  const lower = name.toLowerCase();
  return ofConnection.has(lower) || lower.startsWith("proxy-");
}

/** The headers of a message that go on: without those of the connection and those that its Connection header names. */
export function passedHeaders(message: IncomingMessage): Record<string, string[]> {
  const named = new Set((message.headers.connection ?? "").split(",").map((name) => name.trim().toLowerCase()));
  const passed: Record<string, string[]> = {};
  for (const [name, values] of Object.entries(message.headersDistinct)) {
    // A length is what frames the body; nobody may name it away.
    if (values && !isOfConnection(name) && (name === "content-length" || !named.has(name))) passed[name] = values;
  }
  return passed;
}

/** How a request says where its body ends; `refused` when it says it in a way that others may read differently. */
export function framingOf(headers: IncomingHttpHeaders): "none" | "length" | "chunked" | "refused" {
  const coding = headers["transfer-encoding"];
  if (coding !== undefined) return coding.toLowerCase() === "chunked" && headers["content-length"] === undefined ? "chunked" : "refused";
  return headers["content-length"] === undefined ? "none" : "length";
}
