import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type EnvelopeContext, encodeContext, uuidBytes } from "../../../server/vault/context.ts";
import { ContextError } from "../../../server/vault/errors.ts";

const PREFIX = Buffer.from("prefix");
const CONTEXT: EnvelopeContext = { resourceType: "session", resourceId: "s1", field: "payload", generation: 1 };

// Short parts over a tiny alphabet that contains the length bytes themselves: the likeliest to collide.
const parts = fc.string({ unit: fc.constantFrom("\u0000", "\u0001", "\u0002", "a", "é"), minLength: 1, maxLength: 6 });
const contexts = fc.record({
  resourceType: parts,
  resourceId: parts,
  field: parts,
  generation: fc.oneof(fc.nat(3), fc.maxSafeNat()),
});
const versions = fc.integer({ min: 1, max: 4 });

/** Takes the serialisation apart again. That this can be done at all is what makes it injective. */
function decode(bytes: Buffer): [EnvelopeContext, number] {
  let at = PREFIX.length;
  const part = (): string => {
    const start = at + 4;
    at = start + bytes.readUInt32BE(at);
    return bytes.toString("utf8", start, at);
  };
  const [resourceType, resourceId, field] = [part(), part(), part()];
  expect(bytes).toHaveLength(at + 12);
  return [{ resourceType, resourceId, field, generation: Number(bytes.readBigUInt64BE(at)) }, bytes.readUInt32BE(at + 8)];
}

describe("the serialisation of a context", () => {
  it("can be read back to exactly what was written", () => {
    fc.assert(
      fc.property(contexts, versions, (context, version) => {
        expect(decode(encodeContext(PREFIX, context, version))).toEqual([context, version]);
      }),
      { numRuns: 5_000 },
    );
  });

  it("differs for different contexts", () => {
    fc.assert(
      fc.property(contexts, contexts, versions, versions, (one, other, oneVersion, otherVersion) => {
        const alike = encodeContext(PREFIX, one, oneVersion).equals(encodeContext(PREFIX, other, otherVersion));
        return alike === (JSON.stringify([one, oneVersion]) === JSON.stringify([other, otherVersion]));
      }),
      { numRuns: 20_000 },
    );
  });

  it("keeps apart what only a moved border distinguishes", () => {
    const one = encodeContext(PREFIX, { ...CONTEXT, resourceId: "ab", field: "c" }, 1);
    expect(one.equals(encodeContext(PREFIX, { ...CONTEXT, resourceId: "a", field: "bc" }, 1))).toBe(false);
    const composed = encodeContext(PREFIX, { ...CONTEXT, field: "é" }, 1);
    expect(composed.equals(encodeContext(PREFIX, { ...CONTEXT, field: "e\u0301" }, 1))).toBe(false);
  });

  it("takes parts of up to 255 bytes, counted in UTF-8, and refuses longer and empty ones", () => {
    for (const part of ["resourceType", "resourceId", "field"] as const) {
      expect(() => encodeContext(PREFIX, { ...CONTEXT, [part]: "x".repeat(255) }, 1)).not.toThrow();
      for (const text of ["x".repeat(256), "é".repeat(128), ""]) {
        expect(() => encodeContext(PREFIX, { ...CONTEXT, [part]: text }, 1)).toThrow(ContextError);
      }
    }
  });

  it("refuses text that UTF-8 cannot carry", () => {
    for (const text of ["\ud800", "a\udfffb", "\udc00\ud800"]) {
      expect(() => encodeContext(PREFIX, { ...CONTEXT, field: text }, 1)).toThrow(ContextError);
    }
  });

  it("refuses a generation that is not a safe whole number from 0", () => {
    for (const generation of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
      expect(() => encodeContext(PREFIX, { ...CONTEXT, generation }, 1)).toThrow(ContextError);
    }
  });

  it("reads a UUID in either letter case as the same sixteen bytes", () => {
    const text = "0f1c2d3e-4a5b-4c6d-8e7f-90a1b2c3d4e5";
    expect(uuidBytes(text)).toHaveLength(16);
    expect(uuidBytes(text.toUpperCase())).toEqual(uuidBytes(text));
  });
});
