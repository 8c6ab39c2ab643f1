import { readFileSync } from "node:fs";
import type { Fallback } from "./dispatch.ts";
import { targetOf } from "./message.ts";

/** What a browser is shown at `/`: one static page without script, which cannot even see the token of a sign-in link. */
export function createLanding(): Fallback {
  const page = readFileSync(new URL("../../web/index.html", import.meta.url));
  return (request, response) => {
    if (targetOf(request.url)?.path !== "/" || (request.method !== "GET" && request.method !== "HEAD")) return false;
    response.writeHead(200, {
      "content-type": "text/html; charset=utf-8",
      "content-length": page.length,
      "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
      "referrer-policy": "no-referrer",
      "x-content-type-options": "nosniff",
    });
    response.end(request.method === "HEAD" ? undefined : page);
    return true;
  };
}
