/** A sealed stream opens as what it was, where it belongs, whole; nothing else of it opens at all. */
import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { type StreamPlace, sealed, sealedChunkBytes, sealedLength, unsealed, type VaultSource } from "../../../server/blobs/sealed.ts";
import { ENVELOPE_OVERHEAD } from "../../../server/vault/envelope.ts";
import { VaultError } from "../../../server/vault/errors.ts";
import { createSodium } from "../../../server/vault/sodium.ts";
import { createUserVault, type UserVault } from "../../../server/vault/user-vault.ts";

const ada = "00000000-0000-4000-8000-00000000000a";
const bob = "00000000-0000-4000-8000-00000000000b";
const place: StreamPlace = { sessionId: "ses_1", generation: 4 };
const headBytes = 20;
const frameBytes = sealedChunkBytes + ENVELOPE_OVERHEAD;

let makeVault: (userId: string, dataKey?: Uint8Array) => UserVault;
let vault: VaultSource;
beforeAll(async () => {
  const sodium = await createSodium();
  makeVault = (userId, dataKey = sodium.random(32)) =>
    createUserVault({ sodium }, userId, [{ version: 1, active: true, bytes: Uint8Array.from(dataKey) }]).vault;
  const one = makeVault(ada);
  vault = async () => one;
});

async function* pieces(...all: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* all;
}

async function collect(content: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const piece of content) all.push(piece);
  return Buffer.concat(all);
}

const seal = (content: Uint8Array, where = place) => collect(sealed(vault, where, pieces(content)));

/** The pieces that come out before the stream is refused; fails when it is not. */
async function refused(stream: Uint8Array, where = place, source = vault): Promise<Uint8Array[]> {
  const out: Uint8Array[] = [];
  try {
    for await (const piece of unsealed(source, where, pieces(stream))) out.push(piece);
  } catch (error) {
    expect(error).toBeInstanceOf(VaultError);
    return out;
  }
  throw new Error("the stream was opened to its end");
}

/** Head and envelopes of a stream. */
function parts(stream: Buffer): [head: Buffer, frames: Buffer[]] {
  const frames: Buffer[] = [];
  for (let at = headBytes; at < stream.length; at += frameBytes) frames.push(stream.subarray(at, at + frameBytes));
  return [stream.subarray(0, headBytes), frames];
}

test.each([0, 1, sealedChunkBytes - 1, sealedChunkBytes, sealedChunkBytes + 1, 3 * sealedChunkBytes, 3 * sealedChunkBytes + 7])(
  "%i bytes come out as they went in, and the sealed form has its stated length",
  async (size) => {
    const content = randomBytes(size);
    const stream = await seal(content);
    expect(stream.length).toBe(sealedLength(size));
    expect((await collect(unsealed(vault, place, pieces(stream)))).equals(content)).toBe(true);
    // However it is cut up on its way.
    const cut = [stream.subarray(0, 3), stream.subarray(3, 30), stream.subarray(30, 31), stream.subarray(31)];
    expect((await collect(unsealed(vault, place, pieces(...cut)))).equals(content)).toBe(true);
  },
);

test("its pieces are envelopes of the vault, as the format says", async () => {
  const content = randomBytes(sealedChunkBytes + 100);
  const [head, [first, second]] = parts(await seal(content));
  expect(head.toString("latin1", 0, 4)).toBe("CSS1");
  const id = head.toString("hex", 4);
  const context = { resourceType: "archive", resourceId: "ses_1", generation: 4 };
  const opened = [
    (await vault()).open("archive", { ...context, field: `${id}/0` }, first!),
    (await vault()).open("archive", { ...context, field: `${id}/1/last` }, second!),
  ];
  expect(Buffer.concat(opened).equals(content)).toBe(true);
});

describe("a stream that was touched", () => {
  test("any flipped bit is found", async () => {
    const stream = await seal(Buffer.from("a short content"));
    for (let bit = 0; bit < stream.length * 8; bit += 1) {
      const changed = Buffer.from(stream);
      changed[bit >> 3]! ^= 1 << (bit & 7);
      expect(await refused(changed)).toEqual([]);
    }
    const long = await seal(randomBytes(2 * sealedChunkBytes + 500));
    await fc.assert(
      fc.asyncProperty(fc.nat({ max: long.length * 8 - 1 }), async (bit) => {
        const changed = Buffer.from(long);
        changed[bit >> 3]! ^= 1 << (bit & 7);
        const before = Math.max(0, Math.floor(((bit >> 3) - headBytes) / frameBytes));
        expect(await refused(changed)).toHaveLength(before);
      }),
      { numRuns: 60 },
    );
  });

  test("wherever it is cut, the end is missed", async () => {
    const short = await seal(Buffer.from("x"));
    for (let length = 0; length < short.length; length += 1) expect(await refused(short.subarray(0, length))).toEqual([]);
    const stream = await seal(randomBytes(3 * sealedChunkBytes + 500));
    const ends = [0, 1, 2, 3].flatMap((frames) =>
      [-1, 0, 1, ENVELOPE_OVERHEAD, 5_000].map((more) => headBytes + frames * frameBytes + more),
    );
    for (const length of ends.filter((end) => end < stream.length)) await refused(stream.subarray(0, length));
    await refused(stream.subarray(0, stream.length - 1));
  });

  test("what follows the end is found", async () => {
    for (const size of [10, sealedChunkBytes]) {
      const stream = await seal(randomBytes(size));
      const [, frames] = parts(stream);
      for (const more of [Buffer.from([0]), Buffer.alloc(500), frames.at(-1)!, stream]) await refused(Buffer.concat([stream, more]));
    }
  });

  test("pieces that are left out, doubled or in another order are found", async () => {
    const [head, frames] = parts(await seal(randomBytes(4 * sealedChunkBytes + 500)));
    const order = fc.array(fc.nat({ max: frames.length - 1 }), { maxLength: 7 });
    const isWhole = (indices: readonly number[]) => indices.join() === frames.map((_, index) => index).join();
    const all = [
      [],
      [0],
      [4],
      [1, 2, 3, 4],
      [0, 1, 2, 3],
      [0, 1, 3, 4],
      [0, 0, 1, 2, 3, 4],
      [1, 0, 2, 3, 4],
      [0, 1, 2, 3, 3, 4],
      [0, 1, 2, 3, 4, 4],
    ];
    const check = async (indices: readonly number[]): Promise<void> => {
      await refused(Buffer.concat([head, ...indices.map((index) => frames[index]!)]));
    };
    for (const indices of all) await check(indices);
    await fc.assert(
      fc.asyncProperty(
        order.filter((indices) => !isWhole(indices)),
        check,
      ),
      { numRuns: 40 },
    );
  });

  test("no piece of one stream stands in another, be it of the same place and content", async () => {
    const content = randomBytes(sealedChunkBytes + 500);
    const [head, frames] = parts(await seal(content));
    const [otherHead, otherFrames] = parts(await seal(content));
    expect(await refused(Buffer.concat([head, frames[0]!, otherFrames[1]!]))).toHaveLength(1);
    expect(await refused(Buffer.concat([head, otherFrames[0]!, frames[1]!]))).toEqual([]);
    expect(await refused(Buffer.concat([otherHead, ...frames]))).toEqual([]);
  });
});

test("a stream opens for its own person, session and snapshot only", async () => {
  const key = randomBytes(32);
  const mine = async () => makeVault(ada, key);
  const stream = await collect(sealed(mine, place, pieces(Buffer.from("content"))));
  expect((await collect(unsealed(mine, place, pieces(stream)))).toString()).toBe("content");
  for (const other of [
    { ...place, sessionId: "ses_2" },
    { ...place, generation: 3 },
    { ...place, generation: 5 },
    { ...place, sessionId: "" },
  ])
    expect(await refused(stream, other, mine)).toEqual([]);
  expect(await refused(stream, place, async () => makeVault(bob, key))).toEqual([]);
  expect(await refused(stream, place, async () => makeVault(ada))).toEqual([]);
  const asEvent = makeVault(ada, key).seal(
    "events",
    { resourceType: "archive", resourceId: "ses_1", field: "f", generation: 4 },
    Buffer.from("x"),
  );
  expect(await refused(Buffer.concat([stream.subarray(0, headBytes), asEvent]), place, mine)).toEqual([]);
});

test("the vault is asked anew for each piece, and a source that fails fails the stream", async () => {
  let asked = 0;
  const counting = async () => {
    asked += 1;
    return vault();
  };
  await collect(sealed(counting, place, pieces(randomBytes(2 * sealedChunkBytes + 1))));
  expect(asked).toBe(3);
  async function* failing(): AsyncGenerator<Uint8Array> {
    yield randomBytes(10);
    throw new Error("the source failed");
  }
  await expect(collect(sealed(vault, place, failing()))).rejects.toThrow("the source failed");
  await expect(collect(unsealed(vault, place, failing()))).rejects.toThrow("the source failed");
});
