import type { JsonValue } from "@bufbuild/protobuf";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../../errors.ts";

/** Deeper than any honest body, shallow enough for every recursive reader behind. */
const maxDepth = 64;

const colon = /\s*:/y;

/**
 * Parses a body, stricter than JSON.parse: UTF-8 must be whole, no object repeats a key, no key is `__proto__`, and
 * nesting is bounded. Refuses with MALFORMED_BODY.
 */
export function parseStrictJson(bytes: Uint8Array): JsonValue {
  let text: string;
  let value: JsonValue;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw malformed("the body is not UTF-8", cause);
  }
  try {
    value = JSON.parse(text) as JsonValue;
  } catch (cause) {
    throw malformed("the body is not JSON", cause);
  }
  checkKeys(text);
  return value;
}

// The text is known to be JSON here, so that a scan for brackets and strings is enough.
function checkKeys(text: string): void {
  const open: (Set<string> | undefined)[] = [];
  for (let at = 0; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case 0x7b: // {
        open.push(new Set());
        break;
      case 0x5b: // [
        open.push(undefined);
        break;
      case 0x7d: // }
      case 0x5d: // ]
        open.pop();
        break;
      case 0x22: // "
        at = afterString(text, at, open.at(-1)) - 1;
        break;
    }
    if (open.length > maxDepth) throw malformed(`the body is nested deeper than ${maxDepth} levels`);
  }
}

function afterString(text: string, start: number, keys: Set<string> | undefined): number {
  let at = start + 1;
  // By hand: a regular expression with alternatives may exhaust its stack on a megabyte of text.
  while (text.charCodeAt(at) !== 0x22) at += text.charCodeAt(at) === 0x5c ? 2 : 1;
  const end = at + 1;
  colon.lastIndex = end;
  if (keys && colon.test(text)) {
    const key = JSON.parse(text.slice(start, end)) as string;
    if (keys.has(key)) throw malformed(`the body repeats the key ${JSON.stringify(key.slice(0, 100))}`);
    // Harmless here, but it would become a prototype in the first careless copy behind.
    if (key === "__proto__") throw malformed("the body has a key named __proto__");
    keys.add(key);
  }
  return end;
}

function malformed(message: string, cause?: unknown): Error {
  const error = refusal(ErrorReason.MALFORMED_BODY, message);
  error.cause = cause;
  return error;
}
