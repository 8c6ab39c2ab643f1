import { readFileSync } from "node:fs";
import type { Fallback } from "./dispatch.ts";
import { targetOf } from "./message.ts";

const headers = {
  "content-type": "text/html; charset=utf-8",
  "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
};

/** What a browser is shown at `/`: one static page without script, which cannot even see the token of a sign-in link. */
export function createLanding(): Fallback {
  const page = readFileSync(new URL("../../web/index.html", import.meta.url));
  return (request, response) => {
    if (targetOf(request.url)?.path !== "/" || (request.method !== "GET" && request.method !== "HEAD")) return false;
    response.statusCode = 200;
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    response.end(request.method === "HEAD" ? "" : page);
    return true;
  };
}
