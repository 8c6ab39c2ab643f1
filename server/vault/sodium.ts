import { randomFillSync, timingSafeEqual } from "node:crypto";
import sodium from "libsodium-wrappers";

/**
 * The cryptography the vault stands on, small enough that a second binding of libsodium can take its place.
 * Every implementation must reproduce the published vectors byte for byte.
 */
export type CryptoProvider = {
  /** XChaCha20-Poly1305-IETF: ciphertext followed by its 16-byte tag. `key` 32 bytes, `nonce` 24. */
  aeadSeal(key: Uint8Array, nonce: Uint8Array, associated: Uint8Array, plaintext: Uint8Array): Uint8Array;
  /** The plaintext, or null when the tag does not fit. */
  aeadOpen(key: Uint8Array, nonce: Uint8Array, associated: Uint8Array, sealed: Uint8Array): Uint8Array | null;
  /** BLAKE2b of `length` bytes (16 to 64), keyed when a key (16 to 64 bytes) is given. */
  genericHash(length: number, message: Uint8Array, key?: Uint8Array): Uint8Array;
  /** A 32-byte subkey of a 32-byte key, by crypto_kdf. `context` is exactly 8 ASCII characters. */
  deriveKey(key: Uint8Array, subkeyId: number, context: string): Uint8Array;
  /** Fresh random bytes; throws when the system cannot give any. */
  random(length: number): Uint8Array;
  /** Constant-time comparison; false when the lengths differ. */
  memcmp(left: Uint8Array, right: Uint8Array): boolean;
  /** Overwrites with zeros. */
  memzero(bytes: Uint8Array): void;
};

export const KEY_BYTES = 32;

/**
 * The provider on libsodium-wrappers (WebAssembly), ready to use.
 * Randomness and comparison are Node's: the wrapper draws random bytes one word at a time (40 times slower), and its
 * memcmp is a JavaScript loop where Node's is compiled code made for the purpose.
 * WebAssembly memory can be neither locked nor wiped from here; what the vault itself holds it wipes.
 */
export async function createSodium(): Promise<CryptoProvider> {
  await sodium.ready;
  return {
    aeadSeal: (key, nonce, associated, plaintext) =>
      sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, associated, null, nonce, key),
    aeadOpen(key, nonce, associated, sealed) {
      try {
        return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(null, sealed, associated, nonce, key);
      } catch {
        // The binding reports a tag that does not fit by throwing, and has no other way to say it.
        return null;
      }
    },
    genericHash: (length, message, key) => sodium.crypto_generichash(length, message, key ?? null),
    deriveKey: (key, subkeyId, context) => sodium.crypto_kdf_derive_from_key(KEY_BYTES, subkeyId, context, key),
    random: createRandom(),
    memcmp: (left, right) => left.length === right.length && timingSafeEqual(left, right),
    memzero: (bytes) => void bytes.fill(0),
  };
}

const drawnBytes = 4_096;

/** Drawn many at a time: one draw costs as much as sealing a small message. What is handed out is wiped here. */
function createRandom(): CryptoProvider["random"] {
  const drawn = new Uint8Array(drawnBytes);
  let used = drawn.length;
  return (length) => {
    if (length > drawn.length) return randomFillSync(new Uint8Array(length));
    if (used + length > drawn.length) {
      randomFillSync(drawn);
      used = 0;
    }
    const bytes = drawn.slice(used, used + length);
    drawn.fill(0, used, used + length);
    used += length;
    return bytes;
  };
}
