import { randomFillSync } from "node:crypto";

/** Kinds of ids, by their prefix. */
type IdPrefix = "ses" | "prf" | "tok" | "box" | "arc";

/** A typed, time-ordered id: prefix, underscore, a UUIDv7 as 32 hex digits. */
export function newId(prefix: IdPrefix, now: number = Date.now()): string {
  return `${prefix}_${uuidV7(now).toString("hex")}`;
}

/** A UUIDv7 in its usual text form. */
export function newUuid(now: number = Date.now()): string {
  return uuidV7(now)
    .toString("hex")
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function uuidV7(now: number): Buffer {
  const bytes = randomFillSync(Buffer.alloc(16));
  bytes.writeUIntBE(now, 0, 6);
  bytes[6] = 0x70 | (bytes[6]! & 0x0f);
  bytes[8] = 0x80 | (bytes[8]! & 0x3f);
  return bytes;
}
