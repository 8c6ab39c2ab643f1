import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import type { EnvelopeContext } from "../../../server/vault/context.ts";
import { createEnvelopeKey, PURPOSES, type Purpose, sealEnvelope } from "../../../server/vault/envelope.ts";
import { createRootKeyring } from "../../../server/vault/keyring.ts";
import { type CryptoProvider, createSodium } from "../../../server/vault/sodium.ts";

/*
 * Writes vault-v1.json beside this file:  node test/vectors/vault/generate.ts
 * Every input follows from a counter, so a second run writes the same file. A format that is in use never changes:
 * if this file would, that is a new format with a new magic, and a new file of vectors.
 */

/** All byte fields are lower-case hexadecimal. */
export type EnvelopeVector = {
  name: string;
  /** What must happen: the plaintext comes back, or the one refusal. */
  outcome: "opens" | "refused";
  dataKey: string;
  userId: string;
  version: number;
  purpose: Purpose;
  context: EnvelopeContext;
  envelope: string;
  /** Only where it opens. */
  plaintext?: string;
};

export type RootKeyVector = {
  name: string;
  rootKey: string;
  kid: string;
  userId: string;
  version: number;
  dataKey: string;
  wrapped: string;
  canary: string;
  token: string;
  tokenHash: string;
  url: string;
  urlSignature: string;
};

export type VaultVectors = { format: string; envelopes: EnvelopeVector[]; rootKeys: RootKeyVector[] };

const ENVELOPES_PER_PURPOSE = 24;
const ROOT_KEYS = 32;
const TEXTS = ["session", "a", "ab", "profile memory", "zażółć gęślą jaźń", "票", "x".repeat(255), "nul\u0000inside"];
const LENGTHS = [0, 1, 15, 16, 17, 63, 64, 65, 200, 256, 300, 500];
const GENERATIONS = [0, 1, 2, 255, 256, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 7, Number.MAX_SAFE_INTEGER];
const VERSIONS = [1, 2, 3, 255, 256, 65_536, 2 ** 31, 2 ** 32 - 1];

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const unhex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, "hex"));
const pick = <T>(list: readonly T[], at: number): T => list[at % list.length] as T;

/** `length` bytes that follow from the label alone. */
function bytesOf(label: string, length: number): Uint8Array {
  const digest = createHash("shake256", { outputLength: Math.max(length, 1) })
    .update(label)
    .digest();
  return Uint8Array.from(digest.subarray(0, length));
}

function uuidOf(label: string): string {
  return hex(bytesOf(label, 16)).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function envelopeVector(sodium: CryptoProvider, purpose: Purpose, number: number): EnvelopeVector {
  const name = `${purpose} ${number}`;
  const seed = PURPOSES[purpose].code * ENVELOPES_PER_PURPOSE + number;
  const inputs = {
    dataKey: hex(bytesOf(`${name} data key`, 32)),
    userId: uuidOf(`${name} user`),
    version: pick(VERSIONS, seed * 3),
    purpose,
    context: {
      resourceType: pick(TEXTS, seed),
      resourceId: number % 3 === 0 ? pick(TEXTS, seed * 5 + 1) : uuidOf(`${name} resource`),
      field: pick(TEXTS, seed * 7 + 3),
      generation: pick(GENERATIONS, seed),
    },
  };
  const plaintext = bytesOf(`${name} plaintext`, pick(LENGTHS, seed));
  const fixed = { ...sodium, random: (length: number) => bytesOf(`${name} nonce`, length) };
  const key = createEnvelopeKey(fixed, unhex(inputs.dataKey), inputs.userId, inputs.version, purpose);
  const envelope = hex(sealEnvelope(fixed, key, inputs.context, plaintext));
  return { name, outcome: "opens", ...inputs, envelope, plaintext: hex(plaintext) };
}

/** Sixteen ways to be wrong, each starting from one that opens. */
function refusedVectors(base: EnvelopeVector): EnvelopeVector[] {
  const { plaintext: _, ...opened } = base;
  const flip = (at: number): string => {
    const bytes = unhex(base.envelope);
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    return hex(bytes);
  };
  const refuse = (why: string, change: Partial<EnvelopeVector>): EnvelopeVector => ({
    ...opened,
    ...change,
    name: `${base.name}: ${why}`,
    outcome: "refused",
  });
  const inContext = (change: Partial<EnvelopeContext>) => ({ context: { ...base.context, ...change } });
  return [
    refuse("another data key", { dataKey: hex(bytesOf(`${base.name} other key`, 32)) }),
    refuse("another user", { userId: uuidOf(`${base.name} other user`) }),
    refuse("another version", { version: base.version === 1 ? 2 : base.version - 1 }),
    refuse("another purpose", { purpose: base.purpose === "events" ? "archive" : "events" }),
    refuse("another resource type", inContext({ resourceType: "other" })),
    refuse("another resource", inContext({ resourceId: uuidOf("other resource") })),
    refuse("another field", inContext({ field: "other" })),
    refuse("an older generation", inContext({ generation: Math.max(0, base.context.generation - 1) || 9 })),
    refuse("wrong magic", { envelope: flip(0) }),
    refuse("unknown suite", { envelope: flip(4) }),
    refuse("changed nonce", { envelope: flip(10) }),
    refuse("changed commitment", { envelope: flip(73) }),
    refuse("changed tag", { envelope: flip(base.envelope.length / 2 - 1) }),
    refuse("one byte short", { envelope: base.envelope.slice(0, -2) }),
    refuse("one byte more", { envelope: `${base.envelope}00` }),
    refuse("nothing", { envelope: "" }),
  ];
}

function rootKeyVector(sodium: CryptoProvider, number: number): RootKeyVector {
  const name = `root key ${number}`;
  const rootKey = bytesOf(name, 32);
  const userId = uuidOf(`${name} user`);
  const version = pick(VERSIONS, number);
  const dataKey = bytesOf(`${name} data key`, 32);
  const token = hex(bytesOf(`${name} token`, 24));
  const url = `/blob/${uuidOf(`${name} blob`)}?expires=${1_800_000_000 + number}`;
  const fixed = { ...sodium, random: (length: number) => bytesOf(`${name} nonce`, length) };
  const keyring = createRootKeyring(fixed, [Uint8Array.from(rootKey)]);
  return {
    name,
    rootKey: hex(rootKey),
    kid: keyring.activeKid,
    userId,
    version,
    dataKey: hex(dataKey),
    wrapped: hex(keyring.wrap(userId, version, dataKey).wrapped),
    canary: hex(keyring.sealCanary()),
    token,
    tokenHash: hex(keyring.hashToken(token)),
    url,
    urlSignature: hex(keyring.signUrl(url)),
  };
}

export function generateVectors(sodium: CryptoProvider): VaultVectors {
  const purposes = Object.keys(PURPOSES) as Purpose[];
  const opening = purposes.flatMap((purpose) =>
    Array.from({ length: ENVELOPES_PER_PURPOSE }, (_, number) => envelopeVector(sodium, purpose, number)),
  );
  const refused = opening.filter((_, at) => at % ENVELOPES_PER_PURPOSE === 5).flatMap(refusedVectors);
  return {
    format: "vault-v1",
    envelopes: [...opening, ...refused],
    rootKeys: Array.from({ length: ROOT_KEYS }, (_, number) => rootKeyVector(sodium, number)),
  };
}

if (import.meta.main) {
  const text = `${JSON.stringify(generateVectors(await createSodium()), null, 1)}\n`;
  writeFileSync(new URL("vault-v1.json", import.meta.url), text);
}
