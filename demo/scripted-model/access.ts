import type { IncomingHttpHeaders } from "node:http";
import { ApiError, invalid } from "./errors.ts";

/** The version that the agent sends, and the one after it, which the provider's newest client sends. */
const versions = ["2023-06-01", "2026-10-21"];

export interface AcceptedKeys {
  apiKeys: readonly string[];
  oauthTokens: readonly string[];
}

function unauthorized(message: string): ApiError {
  return new ApiError(401, "authentication_error", message);
}

/**
 * Checks the credentials and the version header as the provider does: an API key travels in
 * `x-api-key` (the agent) or as a bearer (the provider's newest client), an OAuth token as a bearer
 * together with its beta name. `x-api-key` wins, because a key helper sends the same key both ways.
 */
export function checkAccess(headers: IncomingHttpHeaders, keys: AcceptedKeys): void {
  checkKey(headers, keys);
  const version = headers["anthropic-version"];
  if (version === undefined) throw invalid("anthropic-version: header is required");
  if (!versions.includes(String(version))) throw invalid(`anthropic-version: "${String(version)}" is not a valid version`);
}

function checkKey(headers: IncomingHttpHeaders, keys: AcceptedKeys): void {
  const key = headers["x-api-key"];
  if (key !== undefined) {
    if (typeof key !== "string" || !keys.apiKeys.includes(key)) throw unauthorized("invalid x-api-key");
    return;
  }
  const bearer = /^Bearer (.+)$/i.exec(headers.authorization ?? "")?.[1];
  if (bearer === undefined) throw unauthorized("x-api-key header is required");
  if (keys.apiKeys.includes(bearer)) return;
  if (!keys.oauthTokens.includes(bearer)) throw unauthorized("Invalid bearer token");
  if (!String(headers["anthropic-beta"] ?? "").includes("oauth-2025-04-20")) {
    throw unauthorized("OAuth authentication is currently not supported.");
  }
}
