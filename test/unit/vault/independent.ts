import { xchacha20poly1305 } from "@noble/ciphers/chacha.js";
import { blake2b } from "@noble/hashes/blake2.js";

/*
 * The formats once more, from their written description, on another library and with none of the vault's code:
 * a mistake has to be made twice, in two ways, to pass.
 */

const ascii = (text: string): Uint8Array => new TextEncoder().encode(text);

export const concat = (...parts: Uint8Array[]): Uint8Array => Uint8Array.from(parts.flatMap((part) => [...part]));

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

export const unhex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, "hex"));

function bigEndian(value: bigint, bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, at) => Number((value >> BigInt(8 * (bytes - 1 - at))) & 0xffn));
}

const prefixed = (bytes: Uint8Array): Uint8Array => concat(bigEndian(BigInt(bytes.length), 4), bytes);

const uuid = (text: string): Uint8Array => unhex(text.split("-").join(""));

/** crypto_kdf: BLAKE2b of nothing, keyed by the master, salt = subkey id (little-endian), personal = context. */
export function kdf(key: Uint8Array, context: string): Uint8Array {
  const salt = concat(Uint8Array.of(1), new Uint8Array(15));
  const personalization = concat(ascii(context), new Uint8Array(8));
  return blake2b(new Uint8Array(0), { key, dkLen: 32, salt, personalization });
}

export type EnvelopeInput = {
  dataKey: Uint8Array;
  userId: string;
  version: number;
  purpose: string;
  resourceType: string;
  resourceId: string;
  field: string;
  generation: number;
};

const PURPOSE: Record<string, [code: number, label: string]> = {
  credential: [1, "cpCredel"],
  mcp_config: [2, "cpMcpCfg"],
  environment: [3, "cpEnvVar"],
  profile_memory: [4, "cpProfMm"],
  events: [5, "cpEvents"],
  archive: [6, "cpArchiv"],
};

type Parts = { key: Uint8Array; header: Uint8Array; context: Uint8Array };

function envelopeParts(input: EnvelopeInput): Parts {
  const [code, label] = PURPOSE[input.purpose] ?? [0, ""];
  const version = bigEndian(BigInt(input.version), 4);
  const context = concat(
    prefixed(ascii("cp-env-v1")),
    Uint8Array.of(1, code),
    prefixed(uuid(input.userId)),
    prefixed(ascii(input.resourceType)),
    prefixed(ascii(input.resourceId)),
    prefixed(ascii(input.field)),
    bigEndian(BigInt(input.generation), 8),
    version,
  );
  return { key: kdf(input.dataKey, label), header: concat(ascii("CPE1"), Uint8Array.of(1, code), version), context };
}

export const sealEnvelopeIndependently = (input: EnvelopeInput, nonce: Uint8Array, plaintext: Uint8Array): Uint8Array =>
  sealParts(envelopeParts(input), nonce, plaintext);

export const openEnvelopeIndependently = (input: EnvelopeInput, envelope: Uint8Array): Uint8Array | null =>
  openParts(envelopeParts(input), envelope);

export function kidOf(rootKey: Uint8Array): Uint8Array {
  return blake2b(concat(ascii("cp-kid-v1"), rootKey), { dkLen: 32 }).subarray(0, 8);
}

function wrapParts(rootKey: Uint8Array, userId: string, version: number): Parts {
  const label = prefixed(ascii("cp-dek-v1"));
  const context = concat(label, uuid(userId), bigEndian(BigInt(version), 4), kidOf(rootKey));
  return { key: kdf(rootKey, "cpDekWrp"), header: ascii("CPW1"), context };
}

export function wrapIndependently(
  rootKey: Uint8Array,
  userId: string,
  version: number,
  nonce: Uint8Array,
  dataKey: Uint8Array,
): Uint8Array {
  return sealParts(wrapParts(rootKey, userId, version), nonce, dataKey);
}

export function sealCanaryIndependently(rootKey: Uint8Array, nonce: Uint8Array): Uint8Array {
  const context = concat(prefixed(ascii("cp-canary-v1")), kidOf(rootKey));
  const parts = { key: kdf(rootKey, "cpCanary"), header: ascii("CPC1"), context };
  return sealParts(parts, nonce, ascii("carrel root key canary"));
}

export const hashTokenIndependently = (rootKey: Uint8Array, token: string): Uint8Array =>
  blake2b(ascii(token), { key: kdf(rootKey, "cpTokHsh"), dkLen: 32 });

export const signUrlIndependently = (rootKey: Uint8Array, text: string): Uint8Array =>
  blake2b(ascii(text), { key: kdf(rootKey, "cpUrlSig"), dkLen: 32 });

function sealParts({ key, header, context }: Parts, nonce: Uint8Array, plaintext: Uint8Array): Uint8Array {
  const hash = blake2b(concat(prefixed(nonce), context), { key, dkLen: 64 });
  const clear = concat(header, nonce, hash.slice(32));
  const cipher = xchacha20poly1305(hash.slice(0, 32), nonce.slice(0, 24), concat(clear, context));
  return concat(clear, cipher.encrypt(plaintext));
}

function openParts({ key, header, context }: Parts, sealed: Uint8Array): Uint8Array | null {
  const clearBytes = header.length + 64;
  if (sealed.length < clearBytes + 16 || hex(sealed.slice(0, header.length)) !== hex(header)) return null;
  const nonce = sealed.slice(header.length, header.length + 32);
  const hash = blake2b(concat(prefixed(nonce), context), { key, dkLen: 64 });
  if (hex(hash.slice(32)) !== hex(sealed.slice(header.length + 32, clearBytes))) return null;
  const associated = concat(sealed.slice(0, clearBytes), context);
  try {
    return xchacha20poly1305(hash.slice(0, 32), nonce.slice(0, 24), associated).decrypt(sealed.slice(clearBytes));
  } catch {
    return null;
  }
}
