import fc from "fast-check";
import { expect, test } from "vitest";
import { inChunks } from "../../../server/blobs/chunks.ts";

async function* pieces(all: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* all;
}

test("a content in pieces of any size becomes chunks of one size, the first of its own, the last marked", async () => {
  const sizes = fc.integer({ min: 1, max: 9 });
  await fc.assert(
    fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 20 }), { maxLength: 12 }), sizes, sizes, async (all, size, firstSize) => {
      const whole = Buffer.concat(all);
      const chunks: { bytes: Buffer; isLast: boolean }[] = [];
      for await (const chunk of inChunks(pieces(all), size, firstSize)) chunks.push(chunk);
      expect(Buffer.concat(chunks.map(({ bytes }) => bytes)).equals(whole)).toBe(true);
      expect(chunks.map(({ isLast }) => isLast)).toEqual([...chunks.slice(1).map(() => false), true]);
      for (const [index, { bytes, isLast }] of chunks.entries()) {
        const full = index === 0 ? firstSize : size;
        if (isLast) expect(bytes.length).toBeLessThanOrEqual(full);
        else expect(bytes.length).toBe(full);
      }
      if (whole.length > 0) expect(chunks.at(-1)!.bytes.length).toBeGreaterThan(0);
    }),
    { numRuns: 500 },
  );
});
