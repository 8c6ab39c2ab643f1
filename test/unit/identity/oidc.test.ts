import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createOidcIssuer } from "../../../server/identity/oidc.ts";
import { createTokenVerifier } from "../../../server/identity/verify.ts";
import { createLog } from "../../../server/log.ts";
import { type Behaviour, type IdentityProvider, startIdentityProvider } from "../../support/identity-provider.ts";
import { outcomeOf } from "./problem-of.ts";

const MINUTE = 60_000;
const log = createLog("silent");
let provider: IdentityProvider;
let clock: number;

beforeEach(async () => {
  clock = 0;
  provider = await startIdentityProvider();
});
afterEach(() => provider.close());

/** Without the cache of good tokens, so that each call meets the keys. */
function trust(limits = { bytes: 1024 * 1024, milliseconds: 300 }) {
  return createOidcIssuer({ issuer: provider.issuer, audience: "carrel-test" }, { log, monotonic: () => clock, limits });
}

describe("a token of a trusted issuer", () => {
  it.each(["RS256", "ES256", "EdDSA"] as const)("signs its person in with %s", async (algorithm) => {
    await provider.rotate(algorithm);
    const verify = createTokenVerifier([trust()]);
    expect(await verify(await provider.sign())).toMatchObject({
      issuer: provider.issuer,
      subject: "person-1",
      email: "person@example.com",
      operator: false,
    });
  });

  it("never makes an operator", async () => {
    const token = await provider.sign({ carrel_operator: true, operator: true });
    expect((await trust().verify(token)).operator).toBe(false);
  });

  it.each([
    [{ email_verified: true }, "person@example.com"],
    [{ email_verified: undefined }, "person@example.com"],
    [{ email_verified: false }, undefined],
    [{ email_verified: "false" }, undefined],
    [{ email: undefined }, undefined],
    [{ email: 7 }, undefined],
    [{ email: "nobody" }, undefined],
    [{ email: "nul\0@example.com" }, undefined],
    [{ email: "two words@" }, undefined],
    [{ email: `"a@evil.example"@example.com` }, `"a@evil.example"@example.com`],
  ])("carries its address only where the issuer vouches for it: %j", async (claims, email) => {
    expect((await trust().verify(await provider.sign(claims))).email).toBe(email);
  });

  it("may differ from our clock by a minute", async () => {
    const seconds = Math.floor(Date.now() / 1000);
    const issuer = trust();
    expect(await outcomeOf(issuer.verify(await provider.sign({ exp: seconds - 30 })))).toBe("accepted");
    expect(await outcomeOf(issuer.verify(await provider.sign({ nbf: seconds + 30 })))).toBe("accepted");
    expect(await outcomeOf(issuer.verify(await provider.sign({ exp: seconds - 61 })))).toBe("UNAUTHENTICATED expired");
    expect(await outcomeOf(issuer.verify(await provider.sign({ nbf: seconds + 90 })))).toBe("UNAUTHENTICATED not_yet_valid");
  });

  it.each([
    [{ aud: "another-client" }, {}, "wrong_audience"],
    [{ aud: undefined }, {}, "wrong_audience"],
    [{ sub: undefined }, {}, "malformed"],
    [{ exp: undefined }, {}, "malformed"],
    [{}, { kid: "unknown" }, "bad_signature"],
    [{}, { typ: "secevent+jwt" }, "malformed"],
  ] as [Record<string, unknown>, Record<string, unknown>, string][])("is refused for %j %j", async (claims, header, problem) => {
    expect(await outcomeOf(trust().verify(await provider.sign(claims, header)))).toBe(`UNAUTHENTICATED ${problem}`);
  });

  it("needs a key id only when there are several keys that could fit", async () => {
    const issuer = trust();
    expect(await outcomeOf(issuer.verify(await provider.sign({}, { kid: undefined })))).toBe("accepted");
    await provider.rotate("RS256", { keep: true });
    clock += 11 * MINUTE;
    expect(await outcomeOf(issuer.verify(await provider.sign({}, { kid: undefined })))).toBe("UNAUTHENTICATED bad_signature");
    expect(await outcomeOf(issuer.verify(await provider.sign()))).toBe("accepted");
  });
});

describe("the keys of a trusted issuer", () => {
  it("are fetched once for many tokens, and not before the first", async () => {
    const issuer = trust();
    expect(provider.requests()).toBe(0);
    const token = await provider.sign();
    await Promise.all(Array.from({ length: 20 }, () => issuer.verify(token)));
    expect(provider.keySetRequests()).toBe(1);
  });

  it("are fetched anew for a key nobody has seen, but once a minute at most", async () => {
    const issuer = trust();
    await issuer.verify(await provider.sign());
    await provider.rotate("ES256");
    const rotated = await provider.sign();
    expect(await outcomeOf(issuer.verify(rotated))).toBe("UNAUTHENTICATED bad_signature");
    for (let i = 0; i < 50; i += 1) await outcomeOf(issuer.verify(await provider.sign({}, { kid: `made-up-${i}` })));
    expect(provider.keySetRequests()).toBe(1);
    clock += MINUTE;
    expect(await outcomeOf(issuer.verify(rotated))).toBe("accepted");
    expect(provider.keySetRequests()).toBe(2);
  });

  it("stop working once they are withdrawn, also on a server that was quiet", async () => {
    const issuer = trust();
    const token = await provider.sign();
    await issuer.verify(token);
    await provider.rotate("RS256");
    clock += 11 * MINUTE;
    expect(await outcomeOf(issuer.verify(token))).toBe("UNAUTHENTICATED bad_signature");
  });

  it.each<Behaviour>(["down", "slow", "huge", "redirect", "not_json", "no_keys", "other_issuer"])(
    "go on being used while the issuer is %s, for a day",
    async (behaviour) => {
      const issuer = trust();
      const token = await provider.sign();
      await issuer.verify(token);
      provider.behave(behaviour);
      for (const minutes of [6, 11, 600]) {
        clock = minutes * MINUTE;
        expect(await outcomeOf(issuer.verify(token))).toBe("accepted");
      }
      clock = 25 * 60 * MINUTE;
      expect(await outcomeOf(issuer.verify(token))).toBe("UNAVAILABLE");
      provider.behave("normal");
      clock += MINUTE;
      expect(await outcomeOf(issuer.verify(token))).toBe("accepted");
    },
  );

  it.each<Behaviour>(["down", "slow", "huge", "redirect", "not_json", "no_keys", "other_issuer"])(
    "that could never be fetched from an issuer that is %s are no verdict on the token, and asked for once a minute",
    async (behaviour) => {
      provider.behave(behaviour);
      const issuer = trust();
      const token = await provider.sign();
      expect(await outcomeOf(issuer.verify(token))).toBe("UNAVAILABLE");
      const asked = provider.requests();
      expect(await outcomeOf(issuer.verify(token))).toBe("UNAVAILABLE");
      expect(provider.requests()).toBe(asked);
      provider.behave("normal");
      clock += MINUTE;
      expect(await outcomeOf(issuer.verify(token))).toBe("accepted");
    },
  );
});

describe("an issuer is not trusted", () => {
  it.each([
    "http://issuer.example",
    "ftp://issuer.example",
    "https://user:secret@issuer.example",
    "https://issuer.example/?tenant=1",
    "https://issuer.example/#x",
    "http://127.0.0.1.evil.example",
    "carrel",
    "",
  ])("under the name %j", (issuer) => {
    expect(() => createOidcIssuer({ issuer, audience: "carrel-test" }, { log })).toThrow(/must be an https URL/);
  });

  it("twice under one name", () => {
    expect(() => createTokenVerifier([trust(), trust()])).toThrow(/same name/);
  });

  it("for tokens of another one, though both are known", async () => {
    const other = await startIdentityProvider();
    try {
      const verify = createTokenVerifier([trust(), createOidcIssuer({ issuer: other.issuer, audience: "carrel-test" }, { log })]);
      const forged = await other.sign({ iss: provider.issuer });
      expect(await outcomeOf(verify(forged))).toBe("UNAUTHENTICATED bad_signature");
      expect(await outcomeOf(verify(await other.sign()))).toBe("accepted");
    } finally {
      await other.close();
    }
  });
});
