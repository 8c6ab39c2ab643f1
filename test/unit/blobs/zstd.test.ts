import { randomBytes } from "node:crypto";
import { buffer } from "node:stream/consumers";
import { constants, createZstdCompress } from "node:zlib";
import { expect, test } from "vitest";
import { compressed, decompressed, TooLargeError } from "../../../server/blobs/zstd.ts";

async function* pieces(...all: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* all;
}

async function collect(content: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const piece of content) all.push(piece);
  return Buffer.concat(all);
}

test("what was packed is unpacked as it was, and smaller in between where it can be", async () => {
  for (const content of [Buffer.alloc(0), Buffer.from("x"), Buffer.alloc(3_000_000, "abc"), randomBytes(1_000_000)]) {
    const packed = await collect(compressed(pieces(content.subarray(0, 1000), content.subarray(1000))));
    expect((await collect(decompressed(pieces(packed), content.length))).equals(content)).toBe(true);
    if (content.length === 3_000_000) expect(packed.length).toBeLessThan(10_000);
  }
});

test("a stream that unpacks to more than is allowed is stopped there", async () => {
  const bomb = await collect(compressed(pieces(Buffer.alloc(64 * 2 ** 20))));
  expect(bomb.length).toBeLessThan(20_000);
  let seen = 0;
  const unpack = async () => {
    for await (const piece of decompressed(pieces(bomb), 1_000_000)) seen += piece.length;
  };
  await expect(unpack()).rejects.toBeInstanceOf(TooLargeError);
  expect(seen).toBeLessThanOrEqual(1_000_000);
});

test("a damaged stream, a cut one, and one that asks for too much memory are refused", async () => {
  const packed = await collect(compressed(pieces(randomBytes(300_000))));
  await expect(collect(decompressed(pieces(packed.subarray(0, -1)), 1e9))).rejects.toThrow();
  const changed = Buffer.from(packed);
  changed[150_000]! ^= 1;
  await expect(collect(decompressed(pieces(changed), 1e9))).rejects.toThrow();
  await expect(collect(decompressed(pieces(Buffer.from("no zstd at all")), 1e9))).rejects.toThrow();
  const greedy = createZstdCompress({ params: { [constants.ZSTD_c_windowLog]: 26 } });
  for (let index = 0; index < 40; index += 1) greedy.write(randomBytes(2 ** 20));
  greedy.end();
  await expect(collect(decompressed(pieces(await buffer(greedy)), 1e9))).rejects.toThrow();
});

test("a source that fails fails the stream, both ways", async () => {
  async function* failing(): AsyncGenerator<Uint8Array> {
    yield randomBytes(10);
    throw new Error("the source failed");
  }
  await expect(collect(compressed(failing()))).rejects.toThrow("the source failed");
  await expect(collect(decompressed(failing(), 1e9))).rejects.toThrow();
});
