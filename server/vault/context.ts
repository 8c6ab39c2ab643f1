import { ContextError } from "./errors.ts";

/** What an envelope belongs to. It is never stored inside the envelope: whoever opens says what is expected. */
export type EnvelopeContext = {
  /** Kind of the owner, for example `credential` or `session`. */
  resourceType: string;
  resourceId: string;
  /** Which secret of the resource. */
  field: string;
  /** Counter of the secret's replacements, kept in clear beside it; a safe integer from 0. */
  generation: number;
};

const MAX_PART_BYTES = 255;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** The 16 bytes of a UUID in its usual text form; letter case does not matter, anything else is refused. */
export function uuidBytes(uuid: string): Uint8Array {
  if (!UUID.test(uuid)) throw new ContextError("a user id must be a UUID");
  return Buffer.from(uuid.replaceAll("-", ""), "hex");
}

/** Length-prefixed bytes, LP(x) = u32be(length) ‖ x: two different lists of parts can never serialise alike. */
export function lengthPrefixed(bytes: Uint8Array): Uint8Array {
  const out = Buffer.alloc(4 + bytes.length);
  out.writeUInt32BE(bytes.length, 0);
  out.set(bytes, 4);
  return out;
}

/** 4 bytes, big-endian. `value` from 0 to 2^32 - 1. */
export function u32be(value: number): Uint8Array {
  const out = Buffer.alloc(4);
  out.writeUInt32BE(value, 0);
  return out;
}

/**
 * `prefix ‖ LP(resourceType) ‖ LP(resourceId) ‖ LP(field) ‖ u64be(generation) ‖ u32be(version)`.
 * The prefix (everything that is fixed for one key) is computed once per key. Throws `ContextError` for a part that
 * is empty, longer than 255 bytes, or not well-formed text (a lone surrogate would become U+FFFD, and two different
 * strings would serialise alike), and for a generation that is not a safe integer from 0.
 */
export function encodeContext(prefix: Uint8Array, context: EnvelopeContext, version: number): Buffer {
  const { resourceType, resourceId, field, generation } = context;
  const typeBytes = partLength("resource type", resourceType);
  const idBytes = partLength("resource id", resourceId);
  const fieldBytes = partLength("field", field);
  if (!Number.isSafeInteger(generation) || generation < 0) {
    throw new ContextError("a generation must be a whole number from 0");
  }
  const out = Buffer.allocUnsafe(prefix.length + typeBytes + idBytes + fieldBytes + 24);
  out.set(prefix, 0);
  let at = writePart(out, prefix.length, resourceType, typeBytes);
  at = writePart(out, at, resourceId, idBytes);
  at = writePart(out, at, field, fieldBytes);
  at = out.writeUInt32BE(Math.floor(generation / 2 ** 32), at);
  at = out.writeUInt32BE(generation % 2 ** 32, at);
  out.writeUInt32BE(version, at);
  return out;
}

function partLength(name: string, part: string): number {
  if (typeof part !== "string" || !part.isWellFormed()) throw new ContextError(`the ${name} must be well-formed text`);
  const length = Buffer.byteLength(part, "utf8");
  if (length === 0) throw new ContextError(`the ${name} must not be empty`);
  if (length > MAX_PART_BYTES) throw new ContextError(`the ${name} is longer than ${MAX_PART_BYTES} bytes`);
  return length;
}

function writePart(out: Buffer, at: number, part: string, length: number): number {
  const start = out.writeUInt32BE(length, at);
  out.write(part, start, length, "utf8");
  return start + length;
}
