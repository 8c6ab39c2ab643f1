import { ConnectError } from "@connectrpc/connect";
import { errors, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from "jose";
import type { Principal } from "./principal.ts";
import { type TokenProblem, unauthenticated } from "./refusals.ts";

/** One trusted issuer. `verify` answers for tokens that claim to be of `issuer`; it rejects with a refusal. */
export type TokenIssuer = { issuer: string; verify(token: string): Promise<Principal> };

/** What a token of one issuer must be. */
export type TokenRules = {
  issuer: string;
  audience: string;
  /** Signature algorithms; never symmetric ones. */
  algorithms: readonly string[];
  /** Accepted `typ` headers, in lower case and without `application/`; undefined stands for an absent one. */
  types: readonly (string | undefined)[];
  /** How far the clocks of issuer and server may differ. */
  leewaySeconds: number;
};

export type VerifiedToken = { claims: JWTPayload; subject: string; expiresAt: number };

const MAX_SUBJECT_CHARACTERS = 255;
/** The last instant a Date can hold, in seconds. */
const MAX_NUMERIC_DATE = 8.64e12;

/** Checks signature first, claims after it: only who holds the issuer's key learns which claim is wrong. `now` in ms. */
export async function verifyJwt(token: string, keys: JWTVerifyGetKey, rules: TokenRules, now: number): Promise<VerifiedToken> {
  const { payload, protectedHeader } = await jwtVerify(token, keys, {
    algorithms: [...rules.algorithms],
    issuer: rules.issuer,
    audience: rules.audience,
    clockTolerance: rules.leewaySeconds,
    currentDate: new Date(now),
  }).catch((error: unknown) => {
    throw refusalOf(error);
  });
  const { exp, iat, sub } = payload;
  if (!hasType(protectedHeader.typ, rules.types) || !isSubject(sub) || exp === undefined || exp > MAX_NUMERIC_DATE) {
    throw unauthenticated("malformed");
  }
  if (iat !== undefined && iat > now / 1000 + rules.leewaySeconds) throw unauthenticated("not_yet_valid");
  return { claims: payload, subject: sub, expiresAt: exp * 1000 };
}

function hasType(typ: unknown, accepted: TokenRules["types"]): boolean {
  if (typ !== undefined && typeof typ !== "string") return false;
  return accepted.includes(typ?.toLowerCase().replace(/^application\//, ""));
}

/** Anything Postgres would refuse (NUL) or quietly make equal to another name (lone surrogates) is no name. */
function isSubject(value: unknown): value is string {
  return isPlainText(value) && value.length > 0 && value.length <= MAX_SUBJECT_CHARACTERS;
}

/** Well-formed text without control characters. */
export function isPlainText(value: unknown): value is string {
  return typeof value === "string" && value.isWellFormed() && !/\p{Cc}/u.test(value);
}

function refusalOf(error: unknown): ConnectError {
  // The keys could not be had: that is no verdict on the token.
  if (error instanceof ConnectError) return error;
  return unauthenticated(problemOf(error), error);
}

function problemOf(error: unknown): TokenProblem {
  if (error instanceof errors.JWTExpired) return "expired";
  if (error instanceof errors.JWTClaimValidationFailed) return claimProblem(error.claim, error.reason);
  const isShape = error instanceof errors.JWSInvalid || error instanceof errors.JWTInvalid || error instanceof errors.JOSENotSupported;
  return isShape ? "malformed" : "bad_signature";
}

function claimProblem(claim: string, reason: string): TokenProblem {
  if (claim === "aud") return "wrong_audience";
  if (claim === "iss") return "unknown_issuer";
  if (claim === "nbf" && reason === "check_failed") return "not_yet_valid";
  return "malformed";
}
