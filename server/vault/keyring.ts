import { COMMITTED_OVERHEAD, openCommitted, sealCommitted } from "./committed.ts";
import { lengthPrefixed, u32be, uuidBytes } from "./context.ts";
import { readKeyFile } from "./key-file.ts";
import { type CryptoProvider, KEY_BYTES } from "./sodium.ts";

/*
 * Wrapped data key:  "CPW1" | committed construction, in the context
 *                    LP("cp-dek-v1") ‖ user id (16 bytes) ‖ u32be(version) ‖ kid (8 bytes)       116 bytes in all
 * Canary:            "CPC1" | committed construction around a fixed text, in the context
 *                    LP("cp-canary-v1") ‖ kid (8 bytes)
 * kid (key id):      the first 8 bytes of BLAKE2b-256("cp-kid-v1" ‖ root key), written as 16 hexadecimal digits
 */

/** A data key as stored: opaque to everything but the root key it names. */
export type WrappedKey = { kid: string; wrapped: Uint8Array };

/** The root keys of this process. It holds only keys derived from them; the root keys themselves are wiped at load. */
export type RootKeyring = {
  /** The key that wraps, and makes hashes and signatures. */
  readonly activeKid: string;
  /** Every loaded key, the active one first. */
  readonly kids: readonly string[];
  /** Wraps a 32-byte data key under the active root key. `userId` is a UUID. */
  wrap(userId: string, version: number, dataKey: Uint8Array): WrappedKey;
  /** The data key, for the caller to wipe; null when the kid is not loaded or the bytes are not what was wrapped. */
  unwrap(userId: string, version: number, stored: WrappedKey): Uint8Array | null;
  /** Proves later that a key of this kid is the one that was there. */
  sealCanary(): Uint8Array;
  /** False when the kid is not loaded or the canary does not open under it. */
  opensCanary(kid: string, canary: Uint8Array): boolean;
  /** 32 bytes to store in place of a token and to look it up by. Changes when the active root key does. */
  hashToken(token: string): Uint8Array;
  /** 32 bytes of signature under the active root key. */
  signUrl(text: string): Uint8Array;
  /** True when any loaded root key made the signature, so that links outlive a rotation. */
  verifyUrl(text: string, signature: Uint8Array): boolean;
  /** Wipes every key. Nothing may be called afterwards. */
  close(): void;
};

type DerivedKeys = { kid: string; wrap: Uint8Array; token: Uint8Array; url: Uint8Array; canary: Uint8Array };

const SUBKEY_ID = 1;
const KID_BYTES = 8;
const HASH_BYTES = 32;
const WRAP_MAGIC = Buffer.from("CPW1", "ascii");
const CANARY_MAGIC = Buffer.from("CPC1", "ascii");
const CANARY_TEXT = Buffer.from("carrel root key canary", "ascii");
const WRAPPED_BYTES = WRAP_MAGIC.length + COMMITTED_OVERHEAD + KEY_BYTES;

/** Reads the key file (format: `key-file.ts`) into a keyring. Throws `KeyFileError`. */
export async function readRootKeyring(sodium: CryptoProvider, file: string): Promise<RootKeyring> {
  return createRootKeyring(sodium, await readKeyFile(sodium, file));
}

/** A keyring of these 32-byte root keys, the first one active. Wipes the bytes it is given. */
export function createRootKeyring(sodium: CryptoProvider, rootKeys: readonly Uint8Array[]): RootKeyring {
  const ring = rootKeys.map((rootKey) => deriveKeys(sodium, rootKey));
  const [active] = ring;
  if (active === undefined) throw new Error("a root keyring needs at least one key");
  const byKid = new Map(ring.map((keys) => [keys.kid, keys]));
  return {
    activeKid: active.kid,
    kids: [...byKid.keys()],
    wrap: (userId, version, dataKey) => ({
      kid: active.kid,
      wrapped: sealCommitted(sodium, active.wrap, WRAP_MAGIC, wrapContext(userId, version, active.kid), dataKey),
    }),
    unwrap(userId, version, { kid, wrapped }) {
      const keys = byKid.get(kid);
      if (keys === undefined || wrapped.length !== WRAPPED_BYTES) return null;
      return openCommitted(sodium, keys.wrap, WRAP_MAGIC, wrapContext(userId, version, kid), wrapped);
    },
    sealCanary: () => sealCommitted(sodium, active.canary, CANARY_MAGIC, canaryContext(active.kid), CANARY_TEXT),
    opensCanary(kid, canary) {
      const keys = byKid.get(kid);
      if (keys === undefined) return false;
      const text = openCommitted(sodium, keys.canary, CANARY_MAGIC, canaryContext(kid), canary);
      return text !== null && sodium.memcmp(text, CANARY_TEXT);
    },
    hashToken: (token) => sodium.genericHash(HASH_BYTES, Buffer.from(token, "utf8"), active.token),
    signUrl: (text) => sodium.genericHash(HASH_BYTES, Buffer.from(text, "utf8"), active.url),
    verifyUrl: (text, signature) =>
      ring.some(({ url }) => sodium.memcmp(sodium.genericHash(HASH_BYTES, Buffer.from(text, "utf8"), url), signature)),
    close() {
      for (const { kid: _, ...keys } of ring) for (const key of Object.values(keys)) sodium.memzero(key);
    },
  };
}

function deriveKeys(sodium: CryptoProvider, rootKey: Uint8Array): DerivedKeys {
  const keys = {
    kid: computeKid(sodium, rootKey),
    wrap: sodium.deriveKey(rootKey, SUBKEY_ID, "cpDekWrp"),
    token: sodium.deriveKey(rootKey, SUBKEY_ID, "cpTokHsh"),
    url: sodium.deriveKey(rootKey, SUBKEY_ID, "cpUrlSig"),
    canary: sodium.deriveKey(rootKey, SUBKEY_ID, "cpCanary"),
  };
  sodium.memzero(rootKey);
  return keys;
}

function computeKid(sodium: CryptoProvider, rootKey: Uint8Array): string {
  const labelled = Buffer.concat([Buffer.from("cp-kid-v1", "ascii"), rootKey]);
  const kid = Buffer.from(sodium.genericHash(HASH_BYTES, labelled)).subarray(0, KID_BYTES).toString("hex");
  sodium.memzero(labelled);
  return kid;
}

function wrapContext(userId: string, version: number, kid: string): Uint8Array {
  const label = lengthPrefixed(Buffer.from("cp-dek-v1", "ascii"));
  return Buffer.concat([label, uuidBytes(userId), u32be(version), Buffer.from(kid, "hex")]);
}

function canaryContext(kid: string): Uint8Array {
  return Buffer.concat([lengthPrefixed(Buffer.from("cp-canary-v1", "ascii")), Buffer.from(kid, "hex")]);
}
