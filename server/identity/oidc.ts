import type { JWTPayload } from "jose";
import type { FetchLimits } from "./fetch-json.ts";
import { createIssuerKeys, discoveryUrl, type IssuerKeysDeps } from "./issuer-keys.ts";
import { isPlainText, type TokenIssuer, type TokenRules, verifyJwt } from "./jwt.ts";

/** A trusted issuer: its URL exactly as in its tokens, and the audience that tokens for this installation name. */
export type OidcIssuerConfig = { issuer: string; audience: string };

export type OidcIssuerDeps = Pick<IssuerKeysDeps, "log"> & {
  /** Wall clock, milliseconds; default the machine's. */
  now?: () => number;
  /** A clock that never goes back, for the age of keys; default the process's. */
  monotonic?: () => number;
  limits?: FetchLimits;
};

/** Public-key signatures only: with HMAC, whoever can verify could also sign. */
const ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"];
const TYPES = [undefined, "jwt", "at+jwt"];
const LEEWAY_SECONDS = 60;
const MAX_EMAIL_CHARACTERS = 320;

/** Throws when the issuer is not a URL that may be trusted. Nothing is fetched before the first token. */
export function createOidcIssuer({ issuer, audience }: OidcIssuerConfig, deps: OidcIssuerDeps): TokenIssuer {
  discoveryUrl(issuer);
  const { log, now = Date.now, monotonic, limits } = deps;
  const keys = createIssuerKeys({ issuer, log, ...(monotonic && { now: monotonic }), ...(limits && { limits }) });
  const rules: TokenRules = { issuer, audience, algorithms: ALGORITHMS, types: TYPES, leewaySeconds: LEEWAY_SECONDS };
  return {
    issuer,
    async verify(token) {
      const { claims, subject, expiresAt } = await verifyJwt(token, keys, rules, now());
      return { issuer, subject, email: vouchedEmail(claims), operator: false, expiresAt };
    },
  };
}

/** The address, unless the issuer says it did not verify it. Some issuers write the boolean as text. */
function vouchedEmail({ email, email_verified: verified }: JWTPayload): string | undefined {
  if (verified === false || verified === "false") return undefined;
  if (!isPlainText(email) || email.length > MAX_EMAIL_CHARACTERS) return undefined;
  return /^\S.*@[^\s@]+$/.test(email) ? email : undefined;
}
