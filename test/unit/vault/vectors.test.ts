import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { createEnvelopeKey, ENVELOPE_OVERHEAD, openEnvelope, sealEnvelope } from "../../../server/vault/envelope.ts";
import { VaultError } from "../../../server/vault/errors.ts";
import { createRootKeyring } from "../../../server/vault/keyring.ts";
import { type CryptoProvider, createSodium } from "../../../server/vault/sodium.ts";
import { type EnvelopeVector, generateVectors, type VaultVectors } from "../../vectors/vault/generate.ts";
import {
  hashTokenIndependently,
  hex,
  kdf,
  kidOf,
  openEnvelopeIndependently,
  sealCanaryIndependently,
  sealEnvelopeIndependently,
  signUrlIndependently,
  unhex,
  wrapIndependently,
} from "./independent.ts";

const file = new URL("../../vectors/vault/vault-v1.json", import.meta.url);
const vectors = JSON.parse(readFileSync(file, "utf8")) as VaultVectors;
const opening = vectors.envelopes.filter(({ outcome }) => outcome === "opens");
const refused = vectors.envelopes.filter(({ outcome }) => outcome === "refused");

const nonceOf = (sealed: string, headerBytes: number): Uint8Array => unhex(sealed).slice(headerBytes, headerBytes + 32);

const inputOf = (vector: EnvelopeVector) => ({
  ...vector.context,
  dataKey: unhex(vector.dataKey),
  userId: vector.userId,
  version: vector.version,
  purpose: vector.purpose,
});

describe("the published vectors", () => {
  let sodium: CryptoProvider;
  const keyOf = ({ dataKey, userId, version, purpose }: EnvelopeVector) =>
    createEnvelopeKey(sodium, unhex(dataKey), userId, version, purpose);

  beforeAll(async () => {
    sodium = await createSodium();
  });

  it("are at least two hundred and follow from their generator", () => {
    expect(vectors.envelopes.length + vectors.rootKeys.length).toBeGreaterThanOrEqual(200);
    expect(generateVectors(sodium)).toEqual(vectors);
  });

  it("open where they say so, 90 bytes longer than their plaintext", () => {
    for (const vector of opening) {
      const plaintext = openEnvelope(sodium, keyOf(vector), vector.context, unhex(vector.envelope));
      expect(hex(plaintext), vector.name).toBe(vector.plaintext);
      expect(vector.envelope.length / 2 - plaintext.length).toBe(ENVELOPE_OVERHEAD);
    }
  });

  it("are refused where they say so", () => {
    for (const vector of refused) {
      const open = () => openEnvelope(sodium, keyOf(vector), vector.context, unhex(vector.envelope));
      expect(open, vector.name).toThrow(VaultError);
    }
  });

  it("are sealed byte for byte again from the same nonce", () => {
    for (const vector of opening) {
      const fixed = { ...sodium, random: () => nonceOf(vector.envelope, 10) };
      const sealed = sealEnvelope(fixed, keyOf(vector), vector.context, unhex(vector.plaintext ?? ""));
      expect(hex(sealed), vector.name).toBe(vector.envelope);
    }
  });

  it("are what an independent implementation seals, opens and refuses", () => {
    for (const vector of vectors.envelopes) {
      const opened = openEnvelopeIndependently(inputOf(vector), unhex(vector.envelope));
      expect(opened && hex(opened), vector.name).toBe(vector.plaintext ?? null);
      if (vector.plaintext === undefined) continue;
      const nonce = nonceOf(vector.envelope, 10);
      const sealed = sealEnvelopeIndependently(inputOf(vector), nonce, unhex(vector.plaintext));
      expect(hex(sealed), vector.name).toBe(vector.envelope);
    }
  });

  it("hold for root keys: key id, wrapped data key, canary, token hash, URL signature", () => {
    for (const vector of vectors.rootKeys) {
      const keyring = createRootKeyring(sodium, [unhex(vector.rootKey)]);
      const stored = { kid: vector.kid, wrapped: unhex(vector.wrapped) };
      expect(keyring.activeKid).toBe(vector.kid);
      expect(hex(keyring.unwrap(vector.userId, vector.version, stored) ?? new Uint8Array())).toBe(vector.dataKey);
      expect(keyring.opensCanary(vector.kid, unhex(vector.canary))).toBe(true);
      expect(hex(keyring.hashToken(vector.token))).toBe(vector.tokenHash);
      expect(keyring.verifyUrl(vector.url, unhex(vector.urlSignature))).toBe(true);
    }
  });

  it("hold for root keys in the independent implementation", () => {
    for (const vector of vectors.rootKeys) {
      const rootKey = unhex(vector.rootKey);
      const nonce = nonceOf(vector.wrapped, 4);
      const wrapped = wrapIndependently(rootKey, vector.userId, vector.version, nonce, unhex(vector.dataKey));
      expect(hex(kidOf(rootKey))).toBe(vector.kid);
      expect(hex(wrapped)).toBe(vector.wrapped);
      expect(hex(sealCanaryIndependently(rootKey, nonceOf(vector.canary, 4)))).toBe(vector.canary);
      expect(hex(hashTokenIndependently(rootKey, vector.token))).toBe(vector.tokenHash);
      expect(hex(signUrlIndependently(rootKey, vector.url))).toBe(vector.urlSignature);
    }
  });

  it("rest on one subkey derivation, salted BLAKE2b, in both implementations", () => {
    for (const { rootKey } of vectors.rootKeys) {
      for (const label of ["cpDekWrp", "cpCredel", "cpEvents"]) {
        expect(hex(sodium.deriveKey(unhex(rootKey), 1, label))).toBe(hex(kdf(unhex(rootKey), label)));
      }
    }
  });
});
