import { execFile } from "node:child_process";
import { chmodSync, readdirSync, readFileSync, renameSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { decodeJwt, decodeProtectedHeader, exportJWK, generateKeyPair } from "jose";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { IssuerKeyError } from "../../../server/identity/issuer-key.ts";
import { createLocalVerifier, openLocalIssuer, readLocalIssuer } from "../../../server/identity/local-issuer.ts";
import { makeTemporaryDirectory, removeDirectory } from "../../support/temporary.ts";

let dataDir: string;
let file: string;

beforeEach(() => {
  dataDir = makeTemporaryDirectory("issuer");
  file = path.join(dataDir, "issuer.jwk");
});
afterEach(() => removeDirectory(dataDir));

describe("the key of the built-in issuer", () => {
  it("is made at the first start, for its owner only, and kept", async () => {
    const { key } = await openLocalIssuer(dataDir);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(readdirSync(dataDir)).toEqual(["issuer.jwk"]);
    expect((await openLocalIssuer(dataDir)).key.kid).toBe(key.kid);
    expect((await readLocalIssuer(dataDir)).key.kid).toBe(key.kid);
  });

  it("is one key when several processes start at once", async () => {
    const issuers = await Promise.all(Array.from({ length: 8 }, () => openLocalIssuer(dataDir)));
    expect(new Set(issuers.map(({ key }) => key.kid)).size).toBe(1);
    expect(readdirSync(dataDir)).toEqual(["issuer.jwk"]);
  });

  it("is not made by a tool that only reads it", async () => {
    await expect(readLocalIssuer(dataDir)).rejects.toThrow(/issuer\.jwk: is not there/);
    expect(readdirSync(dataDir)).toEqual([]);
  });

  it("is refused when others may read it", async () => {
    await openLocalIssuer(dataDir);
    chmodSync(file, 0o640);
    await expect(openLocalIssuer(dataDir)).rejects.toThrow(/chmod 0600/);
  });

  it("is refused, not replaced, when the file holds something else", async () => {
    const { privateKey } = await generateKeyPair("ES256", { extractable: true });
    const { publicKey } = await generateKeyPair("EdDSA", { extractable: true });
    const contents = [
      "",
      "hello secret",
      "{}",
      JSON.stringify(await exportJWK(privateKey)),
      JSON.stringify(await exportJWK(publicKey)),
      "x".repeat(5_000),
    ];
    for (const content of contents) {
      writeFileSync(file, content, { mode: 0o600 });
      const refused = await openLocalIssuer(dataDir).catch((error: unknown) => error);
      expect(refused).toBeInstanceOf(IssuerKeyError);
      expect(String((refused as Error).message)).not.toContain("secret");
      expect(readFileSync(file, "utf8")).toBe(content);
    }
  });

  it("is not read through a symbolic link", async () => {
    await openLocalIssuer(dataDir);
    renameSync(file, `${file}.elsewhere`);
    symlinkSync(`${file}.elsewhere`, file);
    await expect(openLocalIssuer(dataDir)).rejects.toBeInstanceOf(IssuerKeyError);
  });

  it("of one data directory does not verify tokens of another", async () => {
    const other = makeTemporaryDirectory("issuer");
    try {
      const token = await (await openLocalIssuer(other)).issueToken({ email: "a@b.example", ttlMs: 60_000, operator: true });
      await expect(createLocalVerifier(await openLocalIssuer(dataDir)).verify(token)).rejects.toThrow(/signature/);
    } finally {
      removeDirectory(other);
    }
  });
});

describe("the built-in issuer", () => {
  it("writes tokens of the documented form", async () => {
    const issuer = await openLocalIssuer(dataDir);
    const token = await issuer.issueToken({ email: "You@Example.COM", ttlMs: 90_500, operator: false });
    const claims = decodeJwt(token);
    expect(decodeProtectedHeader(token)).toEqual({ alg: "EdDSA", typ: "JWT", kid: issuer.key.kid });
    expect(claims).toMatchObject({ iss: "carrel", aud: "carrel", sub: "you@example.com", email: "you@example.com" });
    expect(claims.exp! - claims.iat!).toBe(90);
    expect(claims.jti).toMatch(/^[0-9a-f-]{36}$/);
    expect(claims).not.toHaveProperty("carrel_operator");
  });

  it.each(["", "nobody", "a@b@c", "a b@c", "a@\0", `${"x".repeat(250)}@b.example`])("issues nothing for %j", async (email) => {
    const issuer = await openLocalIssuer(dataDir);
    await expect(issuer.issueToken({ email, ttlMs: 60_000, operator: false })).rejects.toThrow(/e-mail/);
  });

  it.each([0, -1, 999, Number.NaN])("issues nothing that is valid for %d ms", async (ttlMs) => {
    const issuer = await openLocalIssuer(dataDir);
    await expect(issuer.issueToken({ email: "a@b.example", ttlMs, operator: false })).rejects.toThrow(/second/);
  });
});

describe("the token command", () => {
  const run = (...args: string[]) => {
    // Any program will do for `claude`: nothing starts it here.
    const env = { CARREL_DATA_DIR: dataDir, CARREL_CLAUDE_PATH: process.execPath };
    return promisify(execFile)(process.execPath, ["server/token.ts", ...args], { env }).catch(
      (error: { code: number; stdout: string; stderr: string }) => error,
    );
  };

  it("prints the token alone", async () => {
    const issuer = await openLocalIssuer(dataDir);
    const { stdout, stderr } = await run("--email", "you@example.com", "--ttl", "2h", "--operator");
    expect(stderr).toBe("");
    expect(stdout).toMatch(/^[^\n]+\n$/);
    const principal = await createLocalVerifier(issuer).verify(stdout.trim());
    expect(principal).toMatchObject({ subject: "you@example.com", operator: true });
    expect(principal.expiresAt - Date.now()).toBeGreaterThan(7_190_000);
  });

  it("says on stderr alone what is wrong, and ends with 78 for a key problem", async () => {
    expect(await run("--email", "you@example.com")).toMatchObject({ code: 78, stdout: "", stderr: expect.stringContaining("issuer.jwk") });
    expect(await run()).toMatchObject({ code: 1, stdout: "", stderr: expect.stringContaining("--email") });
    for (const ttl of ["0s", "1", "h", "-1h", "1.5h", "367d", "1y"]) {
      expect(await run("--email", "you@example.com", "--ttl", ttl)).toMatchObject({ code: 1, stdout: "" });
    }
  });
});
