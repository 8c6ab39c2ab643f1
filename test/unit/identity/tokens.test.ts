import { createHmac, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { exportJWK } from "jose";
import { beforeAll, describe, expect, it } from "vitest";
import { createLocalVerifier, type LocalIssuer, openLocalIssuer } from "../../../server/identity/local-issuer.ts";
import { createTokenVerifier, type VerifyToken } from "../../../server/identity/verify.ts";
import { makeTemporaryDirectory, removeDirectory } from "../../support/temporary.ts";
import { outcomeOf } from "./problem-of.ts";

const NOW = Date.UTC(2026, 10, 20);
const SECONDS = NOW / 1000;

let issuer: LocalIssuer;
let key: KeyObject;
let verify: VerifyToken;
const stranger = generateKeyPairSync("ed25519").privateKey;

beforeAll(async () => {
  const dataDir = makeTemporaryDirectory("issuer");
  issuer = await openLocalIssuer(dataDir, () => NOW);
  removeDirectory(dataDir);
  key = createPrivateKey({ key: issuer.key.privateJwk, format: "jwk" });
  verify = createTokenVerifier([createLocalVerifier(issuer, () => NOW)], () => NOW);
});

const goodClaims = { iss: "carrel", aud: "carrel", sub: "a@b.example", email: "a@b.example", iat: SECONDS, exp: SECONDS + 60 };
const goodHeader = () => ({ alg: "EdDSA", typ: "JWT", kid: issuer.key.kid });

type Signer = (input: Buffer) => Buffer;
const by =
  (privateKey: KeyObject): Signer =>
  (input) =>
    sign(null, input, privateKey);

function compact(header: unknown, claims: unknown, signer: Signer = by(key)): string {
  const text = (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value));
  const input = `${Buffer.from(text(header)).toString("base64url")}.${Buffer.from(text(claims)).toString("base64url")}`;
  return `${input}.${signer(Buffer.from(input)).toString("base64url")}`;
}
const withClaims = (claims: object) => compact(goodHeader(), { ...goodClaims, ...claims });
const withHeader = (header: object, signer?: Signer) => compact({ ...goodHeader(), ...header }, goodClaims, signer);

function withByteFlipped(token: string, part: number): string {
  const parts = token.split(".");
  const bytes = Buffer.from(parts[part]!, "base64url");
  bytes[bytes.length >> 1]! ^= 1;
  parts[part] = bytes.toString("base64url");
  return parts.join(".");
}

/** HS256 with every spelling of the public key as the shared secret. */
function hmacTokens(): string[] {
  const publicKey = createPublicKey(key);
  const secrets = [
    publicKey.export({ type: "spki", format: "pem" }),
    publicKey.export({ type: "spki", format: "der" }),
    Buffer.from(issuer.key.publicJwk.x!, "base64url"),
    JSON.stringify(issuer.key.publicJwk),
  ];
  return secrets.map((secret) => withHeader({ alg: "HS256" }, (input) => createHmac("sha256", secret).update(input).digest()));
}

describe("a token of the built-in issuer", () => {
  it("names its person, and whether it is an operator", async () => {
    const [person, operator] = await Promise.all([
      issuer.issueToken({ email: "You@Example.com", ttlMs: 60_000, operator: false }),
      issuer.issueToken({ email: "root@example.com", ttlMs: 60_000, operator: true }),
    ]);
    expect(await verify(person)).toEqual({
      issuer: "carrel",
      subject: "you@example.com",
      email: "you@example.com",
      operator: false,
      expiresAt: NOW + 60_000,
    });
    expect(await verify(operator)).toMatchObject({ subject: "root@example.com", operator: true });
  });

  it("is accepted with and without a key id, and whatever keys it brings along", async () => {
    const other = await exportJWK(createPublicKey(stranger));
    const tokens = [
      compact(goodHeader(), goodClaims),
      compact({ alg: "EdDSA", typ: "JWT" }, goodClaims),
      withHeader({ jwk: other, jku: "https://evil.example/keys", x5u: "https://evil.example/chain" }),
      withClaims({ aud: ["else", "carrel"] }),
      withClaims({ carrel_operator: "true" }),
      withClaims({ iat: SECONDS + 4, nbf: SECONDS + 4 }),
      withClaims({ exp: SECONDS - 4 }),
    ];
    for (const token of tokens) expect(await verify(token)).toMatchObject({ subject: "a@b.example", operator: false });
  });
});

describe("a token is refused as", () => {
  const cases: [string, string, () => string | Promise<string>][] = [
    ["missing", "nothing at all", () => ""],
    ["malformed", "no token", () => "hello"],
    ["malformed", "only two parts", () => "a.b"],
    ["malformed", "an empty signature", () => `${compact(goodHeader(), goodClaims).split(".").slice(0, 2).join(".")}.`],
    ["malformed", "alg none without a signature", () => compact({ alg: "none" }, goodClaims, () => Buffer.alloc(0))],
    ["malformed", "a NUL inside", () => `${compact(goodHeader(), goodClaims)}\0`],
    ["malformed", "a line feed behind", () => `${compact(goodHeader(), goodClaims)}\n`],
    ["malformed", "a megabyte", () => withClaims({ padding: "x".repeat(1024 * 1024) })],
    ["malformed", "an attach token", () => "cat_0123456789abcdef0123456789abcdef"],
    ["malformed", "a lease token that is also a JWT", () => `clt_${compact(goodHeader(), goodClaims)}`],
    ["malformed", "a phantom token", () => "sk-ant-carrel-0123456789abcdef"],
    ["malformed", "claims that are no JSON", () => compact(goodHeader(), "hello")],
    ["malformed", "claims that are a list", () => compact(goodHeader(), "[1]")],
    ["malformed", "claims that are not UTF-8", () => `${compact(goodHeader(), "x").split(".")[0]}._w.AA`],
    ["malformed", "a header that is no JSON", () => compact("hello", goodClaims)],
    ["malformed", "a critical extension", () => withHeader({ crit: ["future"], future: true })],
    ["malformed", "an unencoded payload", () => withHeader({ crit: ["b64"], b64: false })],
    ["malformed", "another type", () => withHeader({ typ: "logout+jwt" })],
    ["malformed", "a type that is a number", () => withHeader({ typ: 7 })],
    ["malformed", "no type", () => compact({ alg: "EdDSA", kid: issuer.key.kid }, goodClaims)],
    ["malformed", "no subject", () => withClaims({ sub: undefined })],
    ["malformed", "an empty subject", () => withClaims({ sub: "" })],
    ["malformed", "a subject that is a number", () => withClaims({ sub: 1 })],
    ["malformed", "a subject with a NUL", () => withClaims({ sub: "a\0@b.example" })],
    [
      "malformed",
      "a subject with half a character",
      () => compact(goodHeader(), `{"iss":"carrel","aud":"carrel","exp":${SECONDS + 60},"sub":"\\ud800"}`),
    ],
    ["malformed", "a subject without end", () => withClaims({ sub: "x".repeat(256) })],
    ["malformed", "no expiry", () => withClaims({ exp: undefined })],
    ["malformed", "an expiry that is text", () => withClaims({ exp: "tomorrow" })],
    ["malformed", "an expiry beyond time", () => compact(goodHeader(), JSON.stringify(goodClaims).replace(/"exp":\d+/, '"exp":1e400'))],
    ["malformed", "a beginning that is text", () => withClaims({ nbf: "now" })],
    ["bad_signature", "alg none with a signature", () => withHeader({ alg: "none" })],
    ["bad_signature", "another algorithm", () => withHeader({ alg: "RS256" })],
    ["bad_signature", "an algorithm nobody knows", () => withHeader({ alg: "eddsa" })],
    ["bad_signature", "another's signature", () => withHeader({}, by(stranger))],
    [
      "bad_signature",
      "another's signature with the key in the header",
      async () => withHeader({ jwk: await exportJWK(createPublicKey(stranger)) }, by(stranger)),
    ],
    [
      "bad_signature",
      "another's signature with a pointer to the key",
      () => withHeader({ jku: "https://evil.example/keys" }, by(stranger)),
    ],
    ["bad_signature", "another key id", () => withHeader({ kid: "other" })],
    ["bad_signature", "a key id that is a path", () => withHeader({ kid: "../../issuer.jwk" })],
    ["bad_signature", "a key id that is an object", () => withHeader({ kid: {} })],
    [
      "bad_signature",
      "changed claims",
      () => withClaims({}).replace(/\.[^.]+\./, `.${Buffer.from(JSON.stringify({ ...goodClaims, sub: "b" })).toString("base64url")}.`),
    ],
    ["bad_signature", "a changed signature", () => withByteFlipped(withClaims({}), 2)],
    ["bad_signature", "a short signature", () => withClaims({}).slice(0, -20)],
    ["unknown_issuer", "another issuer", () => withClaims({ iss: "https://evil.example" })],
    ["unknown_issuer", "no issuer", () => withClaims({ iss: undefined })],
    ["unknown_issuer", "an issuer that is a list", () => withClaims({ iss: ["carrel"] })],
    ["wrong_audience", "another audience", () => withClaims({ aud: "else" })],
    ["wrong_audience", "no audience", () => withClaims({ aud: undefined })],
    ["wrong_audience", "an audience that only begins alike", () => withClaims({ aud: "carrel2" })],
    ["expired", "too old", () => withClaims({ exp: SECONDS - 5 })],
    ["expired", "from long ago", () => withClaims({ exp: 1 })],
    ["not_yet_valid", "from the future", () => withClaims({ iat: SECONDS + 6 })],
    ["not_yet_valid", "for the future", () => withClaims({ nbf: SECONDS + 6 })],
  ];
  it.each(cases)("%s: %s", async (problem, _what, make) => {
    expect(await outcomeOf(verify(await make()))).toBe(`UNAUTHENTICATED ${problem}`);
  });

  it("bad_signature when the public key was the secret of an HMAC", async () => {
    for (const token of hmacTokens()) expect(await outcomeOf(verify(token))).toBe("UNAUTHENTICATED bad_signature");
  });
});
