import type { CryptoProvider } from "./sodium.ts";

/*
 * The one construction everything sealed here shares:
 *
 *   header | nonce 32 | commitment 32 | ciphertext ‖ tag 16
 *
 *   h = BLAKE2b-512(LP(nonce) ‖ context, key);  message key = h[0..32];  commitment = h[32..64]
 *   ciphertext = XChaCha20-Poly1305(plaintext, ad = header ‖ nonce ‖ commitment ‖ context, nonce[0..24], message key)
 *
 * The AEAD alone commits to neither key nor context: one ciphertext can be made that opens under two keys. The
 * commitment closes that, and the fresh key per message takes away every limit on how much one key may seal.
 */

const NONCE_BYTES = 32;
const AEAD_NONCE_BYTES = 24;
const COMMITMENT_BYTES = 32;
const MESSAGE_KEY_BYTES = 32;
const TAG_BYTES = 16;
const NONCE_PREFIX_BYTES = 4;

/** What sealing adds to the header and the plaintext, in bytes. */
export const COMMITTED_OVERHEAD = NONCE_BYTES + COMMITMENT_BYTES + TAG_BYTES;

export function sealCommitted(
  sodium: CryptoProvider,
  key: Uint8Array,
  header: Uint8Array,
  context: Uint8Array,
  plaintext: Uint8Array,
): Uint8Array {
  const nonce = sodium.random(NONCE_BYTES);
  const derived = deriveMessageKey(sodium, key, nonce, context);
  const clearBytes = header.length + NONCE_BYTES + COMMITMENT_BYTES;
  const associated = Buffer.allocUnsafe(clearBytes + context.length);
  associated.set(header, 0);
  associated.set(nonce, header.length);
  associated.set(derived.subarray(MESSAGE_KEY_BYTES), header.length + NONCE_BYTES);
  associated.set(context, clearBytes);
  const aeadNonce = nonce.subarray(0, AEAD_NONCE_BYTES);
  const ciphertext = sodium.aeadSeal(derived.subarray(0, MESSAGE_KEY_BYTES), aeadNonce, associated, plaintext);
  sodium.memzero(derived);
  const sealed = new Uint8Array(clearBytes + ciphertext.length);
  sealed.set(associated.subarray(0, clearBytes), 0);
  sealed.set(ciphertext, clearBytes);
  return sealed;
}

/**
 * The plaintext, or null for any failure. Header and context are the ones the caller expects, never ones that were
 * read from beside the ciphertext.
 */
export function openCommitted(
  sodium: CryptoProvider,
  key: Uint8Array,
  header: Uint8Array,
  context: Uint8Array,
  sealed: Uint8Array,
): Uint8Array | null {
  const headerBytes = header.length;
  if (sealed.length < headerBytes + COMMITTED_OVERHEAD || !startsWith(sealed, header)) return null;
  const clearBytes = headerBytes + NONCE_BYTES + COMMITMENT_BYTES;
  const nonce = sealed.subarray(headerBytes, headerBytes + NONCE_BYTES);
  const derived = deriveMessageKey(sodium, key, nonce, context);
  const commitment = sealed.subarray(headerBytes + NONCE_BYTES, clearBytes);
  // Before the AEAD, and in constant time: a ciphertext made to open under several keys must not reach it.
  if (!sodium.memcmp(commitment, derived.subarray(MESSAGE_KEY_BYTES))) {
    sodium.memzero(derived);
    return null;
  }
  const associated = Buffer.allocUnsafe(clearBytes + context.length);
  associated.set(sealed.subarray(0, clearBytes), 0);
  associated.set(context, clearBytes);
  const aeadNonce = nonce.subarray(0, AEAD_NONCE_BYTES);
  const messageKey = derived.subarray(0, MESSAGE_KEY_BYTES);
  const plaintext = sodium.aeadOpen(messageKey, aeadNonce, associated, sealed.subarray(clearBytes));
  sodium.memzero(derived);
  return plaintext;
}

/** 64 bytes: message key, then commitment. The caller wipes them. */
function deriveMessageKey(sodium: CryptoProvider, key: Uint8Array, nonce: Uint8Array, context: Uint8Array): Uint8Array {
  const message = Buffer.allocUnsafe(NONCE_PREFIX_BYTES + NONCE_BYTES + context.length);
  message.writeUInt32BE(NONCE_BYTES, 0);
  message.set(nonce, NONCE_PREFIX_BYTES);
  message.set(context, NONCE_PREFIX_BYTES + NONCE_BYTES);
  return sodium.genericHash(MESSAGE_KEY_BYTES + COMMITMENT_BYTES, message, key);
}

/** For public bytes only: it stops at the first difference. */
function startsWith(bytes: Uint8Array, expected: Uint8Array): boolean {
  for (let at = 0; at < expected.length; at++) if (bytes[at] !== expected[at]) return false;
  return true;
}
