// Where large things are kept that the database should not hold. What is in a blob is the business of whoever puts it there;
// a store sees opaque bytes under opaque keys, and what must stay secret is sealed before it comes here.
import { createHash } from "node:crypto";

/** Length and SHA-256 (64 hex digits) of a content. */
export type BlobDigest = { bytes: number; sha256: string };

/**
 * Keys are 1 to 512 characters: segments of `a-z 0-9 . _ -`, beginning with a letter or digit and of at most 200, joined by
 * `/`. Every method throws `BlobKeyError` for another one.
 */
export type BlobStore = {
  /**
   * Stores all of the content, in place of what the key held. Durable when it answers. When it throws, because the content did
   * or the store, the key holds what it held before or all of the new content, never a part. Holds a few megabytes in memory.
   * Throws `BlobStoreFullError` when there is no room.
   */
  put(key: string, content: AsyncIterable<Uint8Array>): Promise<BlobDigest>;
  /**
   * The content in pieces. Throws `BlobMissingError`, and `BlobDamagedError` when what is read is not what is expected: then
   * pieces have been given out already, and none of them may count before the end.
   */
  get(key: string, expected?: BlobDigest): AsyncGenerator<Uint8Array>;
  /** Undefined when there is none. */
  stat(key: string): Promise<{ bytes: number } | undefined>;
  /** Nothing happens when there is none. */
  delete(key: string): Promise<void>;
  /** The keys that begin with `prefix`, in any order; an empty one lists all. */
  list(prefix: string): AsyncGenerator<string>;
};

export class BlobMissingError extends Error {
  override name = "BlobMissingError";
  constructor(key: string) {
    super(`there is no blob ${key}`);
  }
}

export class BlobDamagedError extends Error {
  override name = "BlobDamagedError";
  constructor(key: string) {
    super(`the blob ${key} is not what was stored`);
  }
}

export class BlobStoreFullError extends Error {
  override name = "BlobStoreFullError";
  constructor() {
    super("the object store has no room");
  }
}

export class BlobKeyError extends Error {
  override name = "BlobKeyError";
  constructor() {
    super("a blob's key is segments of a-z 0-9 . _ - joined by /");
  }
}

const segment = "[a-z0-9][a-z0-9._-]{0,199}";
const wholeKey = new RegExp(`^${segment}(/${segment})*$`);
const keyStart = new RegExp(`^(${segment}/)*(${segment})?$`);
const longestKey = 512;

export function checkKey(key: string): void {
  if (key.length > longestKey || !wholeKey.test(key)) throw new BlobKeyError();
}

/** A prefix is the beginning of a key. */
export function checkPrefix(prefix: string): void {
  if (prefix.length > longestKey || !keyStart.test(prefix)) throw new BlobKeyError();
}

/** Passes a content on and keeps count of it. */
export function createMeter() {
  const sum = createHash("sha256");
  let bytes = 0;
  return {
    async *pass(content: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
      for await (const piece of content) {
        sum.update(piece);
        bytes += piece.length;
        yield piece;
      }
    },
    /** Of what has passed; once. */
    digest: (): BlobDigest => ({ bytes, sha256: sum.digest("hex") }),
  };
}

/** Passes a content on; throws at its end unless it was what is expected. */
export async function* verified(key: string, content: AsyncIterable<Uint8Array>, expected: BlobDigest): AsyncGenerator<Uint8Array> {
  const meter = createMeter();
  yield* meter.pass(content);
  const { bytes, sha256 } = meter.digest();
  if (bytes !== expected.bytes || sha256 !== expected.sha256) throw new BlobDamagedError(key);
}
