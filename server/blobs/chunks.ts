export type Chunk = { bytes: Buffer; isLast: boolean };

/**
 * A content cut into pieces of exactly `size` bytes, the first of `firstSize`; the last is shorter or as long, and an empty
 * content is one empty piece.
 */
export async function* inChunks(content: AsyncIterable<Uint8Array>, size: number, firstSize = size): AsyncGenerator<Chunk> {
  let chunk = Buffer.allocUnsafe(firstSize);
  let filled = 0;
  for await (const piece of content) {
    for (let at = 0; at < piece.length; ) {
      if (filled === chunk.length) {
        yield { bytes: chunk, isLast: false };
        chunk = Buffer.allocUnsafe(size);
        filled = 0;
      }
      const part = piece.subarray(at, at + chunk.length - filled);
      chunk.set(part, filled);
      filled += part.length;
      at += part.length;
    }
  }
  yield { bytes: chunk.subarray(0, filled), isLast: true };
}
