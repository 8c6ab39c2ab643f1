import { createLocalJWKSet, errors, type JSONWebKeySet, type JWTVerifyGetKey } from "jose";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { retryLater } from "../errors.ts";
import type { Log } from "../log.ts";
import { type FetchLimits, fetchJson, isLoopback } from "./fetch-json.ts";

export type IssuerKeysDeps = {
  /** The issuer's URL, as in its tokens. */
  issuer: string;
  log: Log;
  /** Milliseconds of a clock that never goes back; default the process's own. */
  now?: () => number;
  limits?: FetchLimits;
};

/** Whatever tokens ask for, the issuer is bothered no more often than this. */
const ATTEMPT_EVERY_MS = 60_000;
/** From this age on keys are fetched anew while the held ones go on being used. */
const REFRESH_AFTER_MS = 5 * 60_000;
/** Keys this old are waited for, unless the issuer is away: a withdrawn key must not get in on a quiet server. */
const WAIT_AFTER_MS = 10 * 60_000;
/** How long keys are used while the issuer is away. */
const USE_UNTIL_MS = 24 * 60 * 60_000;

/**
 * The keys of an OIDC issuer, found by discovery. Fetched at the first token; a token with an unknown key makes them
 * be fetched anew, at most once a minute. Rejects with UNAVAILABLE when no keys can be had, and with jose's errors
 * when none fits.
 */
export function createIssuerKeys({ issuer, log, now = () => performance.now(), limits }: IssuerKeysDeps): JWTVerifyGetKey {
  let held: { find: JWTVerifyGetKey; fetchedAt: number } | undefined;
  let attemptedAt = Number.NEGATIVE_INFINITY;
  let attempt: Promise<void> | undefined;
  let away = false;

  const succeed = (keys: JSONWebKeySet): void => {
    held = { find: createLocalJWKSet(keys), fetchedAt: now() };
    if (away) log.info({ issuer }, "token issuer is back");
    away = false;
  };
  const fail = (error: unknown): void => {
    if (!away) log.warn({ issuer, err: error }, "keys of token issuer cannot be fetched");
    away = true;
  };

  /** Never rejects; resolves at once when it is too soon. */
  const refresh = (): Promise<void> => {
    if (attempt) return attempt;
    if (now() - attemptedAt < ATTEMPT_EVERY_MS) return Promise.resolve();
    attemptedAt = now();
    attempt = fetchKeySet(issuer, limits)
      .then(succeed)
      .catch(fail)
      .finally(() => (attempt = undefined));
    return attempt;
  };

  const current = async (): Promise<JWTVerifyGetKey> => {
    const age = held ? now() - held.fetchedAt : Number.POSITIVE_INFINITY;
    if (age > REFRESH_AFTER_MS) {
      const refreshed = refresh();
      if (age > USE_UNTIL_MS || (age > WAIT_AFTER_MS && !away)) await refreshed;
    }
    if (held && now() - held.fetchedAt <= USE_UNTIL_MS) return held.find;
    const seconds = (attemptedAt + ATTEMPT_EVERY_MS - now()) / 1000;
    throw retryLater(ErrorReason.UNAVAILABLE, "the issuer of the token cannot be reached, try again", seconds);
  };

  return async (header, token) => {
    try {
      return await (await current())(header, token);
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
      await refresh();
      return (await current())(header, token);
    }
  };
}

async function fetchKeySet(issuer: string, limits: FetchLimits | undefined): Promise<JSONWebKeySet> {
  const discovery = await fetchJson(discoveryUrl(issuer), limits);
  if (!isRecord(discovery) || discovery.issuer !== issuer) {
    throw new Error("the discovery document is of another issuer");
  }
  const keys = await fetchJson(keySetUrl(issuer, discovery.jwks_uri), limits);
  if (!isRecord(keys) || !Array.isArray(keys.keys) || keys.keys.length === 0) {
    throw new Error("the key set holds no keys");
  }
  return { keys: keys.keys };
}

/** Throws unless `issuer` may be trusted: https, or http on this machine; no credentials, query or fragment. */
export function discoveryUrl(issuer: string): URL {
  const url = URL.parse(issuer);
  const isPlain = url && url.username === "" && url.password === "" && url.search === "" && url.hash === "";
  if (!isPlain || !(url.protocol === "https:" || (url.protocol === "http:" && isLoopback(url)))) {
    throw new Error(`the token issuer ${issuer} must be an https URL, or http on loopback`);
  }
  return new URL(`${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`);
}

/** Only an issuer that is itself on plain http may keep its keys there. */
function keySetUrl(issuer: string, uri: unknown): URL {
  const url = typeof uri === "string" ? URL.parse(uri) : null;
  const mayBePlain = url !== null && url.protocol === "http:" && isLoopback(url) && issuer.startsWith("http:");
  if (!url || !(url.protocol === "https:" || mayBePlain)) throw new Error("the discovery document names no usable jwks_uri");
  return url;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
