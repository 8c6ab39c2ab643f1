import { createHmac, timingSafeEqual } from "node:crypto";

// Not a secret: a constant key lets a restarted scripted model recognise the thinking of the one before it.
const key = "carrel scripted model";

/** The opaque mark that must come back with a thinking block, unchanged. */
export function signThinking(thinking: string): string {
  return createHmac("sha256", key).update(thinking).digest("base64");
}

export function verifyThinking(thinking: string, signature: string): boolean {
  const expected = Buffer.from(signThinking(thinking));
  const given = Buffer.from(signature);
  return given.length === expected.length && timingSafeEqual(given, expected);
}
