/** A real OIDC issuer on loopback that can rotate its keys and misbehave. */
import { randomUUID } from "node:crypto";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, generateKeyPair, type JWK, SignJWT } from "jose";

/** What it does with every request from now on. `slow` never ends its answers; `redirect` and `huge` ones would be right. */
export type Behaviour = "normal" | "down" | "slow" | "huge" | "redirect" | "not_json" | "no_keys" | "other_issuer";

export type IdentityProvider = {
  issuer: string;
  /** How often its key set was asked for. */
  keySetRequests(): number;
  /** Every request it got. */
  requests(): number;
  /** Signs with the newest key. `claims` and `header` replace defaults; undefined leaves one out. */
  sign(claims?: Record<string, unknown>, header?: Record<string, unknown>): Promise<string>;
  /** A new key in place of all others; `keep` publishes it beside them. */
  rotate(algorithm: "RS256" | "ES256" | "EdDSA", options?: { keep?: boolean }): Promise<void>;
  behave(behaviour: Behaviour): void;
  close(): Promise<void>;
};

type SigningKey = { algorithm: string; kid: string; privateKey: CryptoKey; publicJwk: JWK };

/** Tokens are of `person-1`, person@example.com, for the audience `carrel-test`, valid for an hour. */
export async function startIdentityProvider(): Promise<IdentityProvider> {
  let keys = [await makeKey("RS256")];
  let behaviour: Behaviour = "normal";
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? "");
    answer(response, behaviour, request.url ?? "", issuer, keys);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}/realms/test`;
  return {
    issuer,
    keySetRequests: () => asked.filter((url) => url.endsWith("/keys")).length,
    requests: () => asked.length,
    sign: (claims, header) => signToken(keys.at(-1)!, issuer, claims, header),
    rotate: async (algorithm, { keep = false } = {}) => {
      keys = [...(keep ? keys : []), await makeKey(algorithm)];
    },
    behave: (next) => {
      behaviour = next;
    },
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function makeKey(algorithm: string): Promise<SigningKey> {
  const { privateKey, publicKey } = await generateKeyPair(algorithm, { extractable: true });
  const kid = randomUUID();
  return { algorithm, kid, privateKey, publicJwk: { ...(await exportJWK(publicKey)), kid, use: "sig" } };
}

async function signToken(
  key: SigningKey,
  issuer: string,
  claims: Record<string, unknown> = {},
  header: Record<string, unknown> = {},
): Promise<string> {
  const now = Math.floor(Date.now() / 1000);
  const person = { sub: "person-1", email: "person@example.com", email_verified: true };
  return new SignJWT({ iss: issuer, aud: "carrel-test", iat: now, exp: now + 3_600, ...person, ...claims })
    .setProtectedHeader({ alg: key.algorithm, kid: key.kid, typ: "JWT", ...header })
    .sign(key.privateKey);
}

function answer(response: ServerResponse, behaviour: Behaviour, url: string, issuer: string, keys: SigningKey[]): void {
  response.setHeader("content-type", "application/json");
  switch (behaviour) {
    case "down":
      return void response.writeHead(503).end();
    case "slow":
      return void response.write("{");
    case "redirect":
      if (!url.includes("?")) return void response.writeHead(302, { location: `${url}?again` }).end();
      break;
    case "not_json":
      return void response.end("<html>");
    default:
  }
  const padding = behaviour === "huge" ? "x".repeat(2 * 1024 * 1024) : "";
  if (new URL(url, issuer).pathname.endsWith("/keys")) {
    const published = behaviour === "no_keys" ? [] : keys.map((key) => key.publicJwk);
    return void response.end(JSON.stringify({ keys: published, padding }));
  }
  const named = behaviour === "other_issuer" ? "https://other.example" : issuer;
  response.end(JSON.stringify({ issuer: named, jwks_uri: `${issuer}/keys`, padding }));
}
