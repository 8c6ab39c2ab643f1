import { pipeline } from "node:stream";
import { constants, createZstdCompress, createZstdDecompress } from "node:zlib";

/** A content that unpacks to more than was allowed. */
export class TooLargeError extends Error {
  override name = "TooLargeError";
}

/** The memory that unpacking may ask for, as a power of two. The level below needs less. */
const windowLog = 23;
const level = 3;

/** Packed with Zstandard, with its own check sum. */
export function compressed(content: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  const params = { [constants.ZSTD_c_compressionLevel]: level, [constants.ZSTD_c_checksumFlag]: 1 };
  // Errors come out where the pieces do.
  return pipeline(content, createZstdCompress({ params }), () => undefined);
}

/** Unpacked; throws when it is damaged or cut, and `TooLargeError` past `mostBytes`. */
export async function* decompressed(content: AsyncIterable<Uint8Array>, mostBytes: number): AsyncGenerator<Uint8Array> {
  const params = { [constants.ZSTD_d_windowLogMax]: windowLog };
  const pieces: AsyncIterable<Uint8Array> = pipeline(content, createZstdDecompress({ params }), () => undefined);
  let bytes = 0;
  for await (const piece of pieces) {
    bytes += piece.length;
    if (bytes > mostBytes) throw new TooLargeError(`more than ${mostBytes} bytes`);
    yield piece;
  }
}
