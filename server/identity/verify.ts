import { hash } from "node:crypto";
import { decodeJwt } from "jose";
import type { TokenIssuer } from "./jwt.ts";
import type { Principal } from "./principal.ts";
import { unauthenticated } from "./refusals.ts";
import { createTtlCache } from "./ttl-cache.ts";

/**
 * Who a token says is calling. Rejects with UNAUTHENTICATED, its `problem` one of `TokenProblem`; with UNAVAILABLE
 * while the keys of a trusted issuer cannot be had.
 */
export type VerifyToken = (token: string) => Promise<Principal>;

const MAX_TOKEN_CHARACTERS = 8_192;
/** Attach, lease and phantom tokens have no dots, so none of them is ever taken for a person's. */
const COMPACT_JWS = /^[\w-]+\.[\w-]+\.[\w-]+$/;

const MAX_REMEMBERED = 10_000;
const REMEMBER_MS = 60_000;

/**
 * Verifies tokens of these issuers, and remembers a good one until it expires, at most 60 s: so long a key that the
 * issuer withdraws goes on working. Throws when two issuers share a name.
 */
export function createTokenVerifier(issuers: readonly TokenIssuer[], now: () => number = Date.now): VerifyToken {
  const byName = new Map(issuers.map((issuer) => [issuer.issuer, issuer]));
  if (byName.size !== issuers.length) throw new Error("two token issuers have the same name");
  const verified = createTtlCache<Principal>(MAX_REMEMBERED, now);

  return async (token) => {
    checkShape(token);
    // Not the token itself: a heap dump should not hand out thousands of them.
    const digest = hash("sha256", token, "base64");
    const known = verified.get(digest);
    if (known) return known;
    const issuer = byName.get(claimedIssuer(token));
    if (!issuer) throw unauthenticated("unknown_issuer");
    const principal = await issuer.verify(token);
    verified.set(digest, principal, Math.min(principal.expiresAt, now() + REMEMBER_MS));
    return principal;
  };
}

function checkShape(token: string): void {
  if (token === "") throw unauthenticated("missing");
  if (token.length > MAX_TOKEN_CHARACTERS || !COMPACT_JWS.test(token)) throw unauthenticated("malformed");
}

/** What the token says of itself; it only picks the issuer that decides. */
function claimedIssuer(token: string): string {
  try {
    return decodeJwt(token).iss ?? "";
  } catch (error) {
    throw unauthenticated("malformed", error);
  }
}
