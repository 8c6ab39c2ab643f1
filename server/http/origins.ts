import { cors } from "@connectrpc/connect";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../errors.ts";
import { authorityOf, type HttpRequest, type HttpResponse } from "./message.ts";

/** Which browsers may talk to this server. */
export type Origins = {
  /** True for a request without an origin, of the server's own origin, or of a listed one. */
  allows(request: HttpRequest): boolean;
  /** Adds the CORS headers of an answer. */
  decorate(request: HttpRequest, response: HttpResponse): void;
  /** Answers a preflight of an allowed origin. */
  answerPreflight(request: HttpRequest, response: HttpResponse): void;
};

const allowedHeaders = [...cors.allowedHeaders, "Authorization", "X-Request-Id"].join(", ");
const exposedHeaders = [...cors.exposedHeaders, "Retry-After", "WWW-Authenticate", "X-Request-Id"].join(", ");
const allowedMethods = "GET, HEAD, POST, PUT, PATCH, DELETE";
const preflightSeconds = 7200;

/** Listed origins are compared exactly, as browsers write them: `https://example.com`, no path. `secure` tells the own scheme. */
export function createOrigins(listed: readonly string[], publicUrl: string | undefined, secure: boolean): Origins {
  const known = new Set(listed);
  if (publicUrl) known.add(new URL(publicUrl).origin);
  const own = secure ? "https://" : "http://";
  const allows = (request: HttpRequest): boolean => {
    const { origin } = request.headers;
    return origin === undefined || known.has(origin) || origin === own + authorityOf(request);
  };
  return {
    allows,
    decorate(request, response) {
      response.setHeader("vary", "Origin");
      const { origin } = request.headers;
      if (origin === undefined || !allows(request)) return;
      response.setHeader("access-control-allow-origin", origin);
      response.setHeader("access-control-expose-headers", exposedHeaders);
    },
    answerPreflight(request, response) {
      response.setHeader("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
      response.setHeader("access-control-allow-methods", allowedMethods);
      response.setHeader("access-control-allow-headers", allowedHeaders);
      response.setHeader("access-control-max-age", preflightSeconds);
      response.statusCode = 204;
      response.end();
      request.resume();
    },
  };
}

/** True for the question a browser asks before a cross-origin request. */
export function isPreflight(request: HttpRequest): boolean {
  return (
    request.method === "OPTIONS" && request.headers.origin !== undefined && request.headers["access-control-request-method"] !== undefined
  );
}

/** The refusal of a browser on another origin. */
export function originRefused(request: HttpRequest): Error {
  return refusal(ErrorReason.ORIGIN_NOT_ALLOWED, "this origin may not use this server", {
    origin: (request.headers.origin ?? "").slice(0, 200),
  });
}
