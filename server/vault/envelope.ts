import { COMMITTED_OVERHEAD, openCommitted, sealCommitted } from "./committed.ts";
import { type EnvelopeContext, encodeContext, lengthPrefixed, uuidBytes } from "./context.ts";
import { ContextError, VaultError } from "./errors.ts";
import type { CryptoProvider } from "./sodium.ts";

/*
 * Envelope, version 1:  "CPE1" | suite u8 | purpose u8 | data key version u32be | then the committed construction,
 * in the context  LP("cp-env-v1") ‖ suite ‖ purpose ‖ LP(user id, 16 bytes) ‖ LP(resource type) ‖ LP(resource id)
 * ‖ LP(field) ‖ u64be(generation) ‖ u32be(data key version).
 *
 * The generation stops an old ciphertext from passing for a newer one of the same secret. It does not stop somebody
 * who can roll the whole row back, generation included.
 */

/**
 * What a sealed thing is for. Each purpose has a subkey of its own, so that a part of the system can be given one
 * without the others. Codes and labels are part of the format: never change or reuse one.
 */
export const PURPOSES = {
  credential: { code: 1, label: "cpCredel" },
  mcp_config: { code: 2, label: "cpMcpCfg" },
  environment: { code: 3, label: "cpEnvVar" },
  profile_memory: { code: 4, label: "cpProfMm" },
  events: { code: 5, label: "cpEvents" },
  archive: { code: 6, label: "cpArchiv" },
} as const;

export type Purpose = keyof typeof PURPOSES;

/** Envelope length minus plaintext length, in bytes. */
export const ENVELOPE_OVERHEAD = 90;

const MAGIC = Buffer.from("CPE1", "ascii");
const SUITE = 1;
const HEADER_BYTES = ENVELOPE_OVERHEAD - COMMITTED_OVERHEAD;
const VERSION_OFFSET = 6;
const SUBKEY_ID = 1;

/** One purpose of one version of a user's data key, with what never changes between messages already encoded. */
export type EnvelopeKey = {
  readonly version: number;
  readonly header: Uint8Array;
  readonly contextPrefix: Uint8Array;
  readonly subkey: Uint8Array;
};

/** Derives a purpose's key from a data key. `version` is 1 to 2^32 - 1. The data key stays the caller's to wipe. */
export function createEnvelopeKey(
  sodium: CryptoProvider,
  dataKey: Uint8Array,
  userId: string,
  version: number,
  purpose: Purpose,
): EnvelopeKey {
  if (!Number.isInteger(version) || version < 1 || version > 0xffffffff) {
    throw new ContextError("a data key version must be a whole number from 1");
  }
  const { code, label } = PURPOSES[purpose];
  const header = Buffer.alloc(HEADER_BYTES);
  header.set(MAGIC, 0);
  header.set([SUITE, code], MAGIC.length);
  header.writeUInt32BE(version, VERSION_OFFSET);
  const contextPrefix = Buffer.concat([
    lengthPrefixed(Buffer.from("cp-env-v1", "ascii")),
    Uint8Array.of(SUITE, code),
    lengthPrefixed(uuidBytes(userId)),
  ]);
  return { version, header, contextPrefix, subkey: sodium.deriveKey(dataKey, SUBKEY_ID, label) };
}

/** Throws `ContextError` when the context cannot be bound. */
export function sealEnvelope(sodium: CryptoProvider, key: EnvelopeKey, context: EnvelopeContext, plaintext: Uint8Array): Uint8Array {
  const bound = encodeContext(key.contextPrefix, context, key.version);
  return sealCommitted(sodium, key.subkey, key.header, bound, plaintext);
}

/** Opens under exactly this key and context; throws `VaultError` for every failure alike. */
export function openEnvelope(sodium: CryptoProvider, key: EnvelopeKey, context: EnvelopeContext, envelope: Uint8Array): Uint8Array {
  const bound = encodeExpected(key, context);
  const plaintext = openCommitted(sodium, key.subkey, key.header, bound, envelope);
  if (plaintext === null) throw new VaultError();
  return plaintext;
}

/** The data key version an envelope names, for choosing the key; null when this is no envelope. */
export function envelopeVersion(envelope: Uint8Array): number | null {
  if (envelope.length < ENVELOPE_OVERHEAD) return null;
  return new DataView(envelope.buffer, envelope.byteOffset).getUint32(VERSION_OFFSET);
}

function encodeExpected(key: EnvelopeKey, context: EnvelopeContext): Uint8Array {
  try {
    return encodeContext(key.contextPrefix, context, key.version);
  } catch (error) {
    // Nothing can have been sealed under such a context; to the one who asks it is one more envelope that fails.
    if (error instanceof ContextError) throw new VaultError();
    throw error;
  }
}
