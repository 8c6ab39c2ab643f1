import { randomUUID } from "node:crypto";
import { createLocalJWKSet, importJWK, SignJWT } from "jose";
import { ensureIssuerKey, type IssuerKey, readIssuerKey } from "./issuer-key.ts";
import { isPlainText, type TokenIssuer, type TokenRules, verifyJwt } from "./jwt.ts";

/** The built-in issuer of one data directory. */
export type LocalIssuer = {
  /**
   * A token that signs in whoever carries it as `email` for `ttlMs`; with `operator`, as somebody who runs this
   * installation. Rejects for what is no e-mail address and for a time under a second.
   */
  issueToken(request: { email: string; ttlMs: number; operator: boolean }): Promise<string>;
  key: IssuerKey;
};

/** `iss` and `aud` of its tokens. It is no URL, so that no OIDC issuer can have the name. */
const localIssuerName = "carrel";

const OPERATOR_CLAIM = "carrel_operator";
const MAX_EMAIL_CHARACTERS = 254;
const rules: TokenRules = {
  issuer: localIssuerName,
  audience: localIssuerName,
  algorithms: ["EdDSA"],
  types: ["jwt"],
  // Made and checked by the clock of one machine, which may be set back a little.
  leewaySeconds: 5,
};

/** For the server: makes the key at the first start. Rejects with `IssuerKeyError`. */
export async function openLocalIssuer(dataDir: string, now: () => number = Date.now): Promise<LocalIssuer> {
  return createLocalIssuer(await ensureIssuerKey(dataDir), now);
}

/** For tools beside the server: uses the key that is there. Rejects with `IssuerKeyError`. */
export async function readLocalIssuer(dataDir: string, now: () => number = Date.now): Promise<LocalIssuer> {
  return createLocalIssuer(await readIssuerKey(dataDir), now);
}

async function createLocalIssuer(key: IssuerKey, now: () => number): Promise<LocalIssuer> {
  const signingKey = await importJWK(key.privateJwk, "EdDSA");
  return {
    key,
    async issueToken({ email, ttlMs, operator }) {
      if (!isEmailAddress(email)) throw new Error("not an e-mail address");
      if (!(ttlMs >= 1_000)) throw new Error("a token must be valid for a second or longer");
      const issuedAt = Math.floor(now() / 1000);
      const address = email.toLowerCase();
      return new SignJWT({ email: address, ...(operator && { [OPERATOR_CLAIM]: true }) })
        .setProtectedHeader({ alg: "EdDSA", typ: "JWT", kid: key.kid })
        .setIssuer(localIssuerName)
        .setAudience(localIssuerName)
        .setSubject(address)
        .setIssuedAt(issuedAt)
        .setExpirationTime(issuedAt + Math.floor(ttlMs / 1000))
        .setJti(randomUUID())
        .sign(signingKey);
    },
  };
}

/** Verifies tokens of the built-in issuer, the only one that may say `operator`. `now` in ms. */
export function createLocalVerifier({ key }: Pick<LocalIssuer, "key">, now: () => number = Date.now): TokenIssuer {
  const keys = createLocalJWKSet({ keys: [key.publicJwk] });
  return {
    issuer: localIssuerName,
    async verify(token) {
      const { claims, subject, expiresAt } = await verifyJwt(token, keys, rules, now());
      const operator = claims[OPERATOR_CLAIM] === true;
      return { issuer: localIssuerName, subject, email: subject, operator, expiresAt };
    },
  };
}

function isEmailAddress(text: string): boolean {
  return isPlainText(text) && text.length <= MAX_EMAIL_CHARACTERS && /^[^\s@]+@[^\s@]+$/.test(text);
}
