import { createHash, randomBytes } from "node:crypto";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { BlobDamagedError, BlobKeyError, BlobMissingError, type BlobStore } from "../../server/blobs/store.ts";

export type Opened = { store: BlobStore; close(): Promise<void> };

const mebibyte = 2 ** 20;

async function* pieces(...all: (Uint8Array | string)[]): AsyncGenerator<Uint8Array> {
  for (const one of all) yield typeof one === "string" ? Buffer.from(one) : one;
}

async function collect(content: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const piece of content) all.push(piece);
  return Buffer.concat(all);
}

async function keys(store: BlobStore, prefix: string): Promise<string[]> {
  const all: string[] = [];
  for await (const key of store.list(prefix)) all.push(key);
  return all.sort();
}

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** What every store of blobs owes, whatever it is made of. */
export function blobSuite(name: string, open: () => Promise<Opened>): void {
  describe(`a store of blobs (${name})`, { timeout: 60_000 }, () => {
    let opened: Opened;
    let store: BlobStore;
    beforeAll(async () => {
      opened = await open();
      store = opened.store;
    });
    afterAll(() => opened?.close());

    test.each([0, 1, 1000, 5 * mebibyte, 5 * mebibyte + 1, 10 * mebibyte, 17 * mebibyte + 3])(
      "keeps %i bytes as they are",
      async (size) => {
        const content = randomBytes(size);
        const key = `sizes/${size}`;
        const digest = await store.put(key, pieces(content.subarray(0, 10), content.subarray(10, 3000), content.subarray(3000)));
        expect(digest).toEqual({ bytes: size, sha256: sha256(content) });
        expect(await store.stat(key)).toEqual({ bytes: size });
        expect((await collect(store.get(key, digest))).equals(content)).toBe(true);
      },
    );

    test("a blob is replaced as a whole, and of many writers at once one wins as a whole", async () => {
      await store.put("replaced", pieces("first, and longer"));
      await store.put("replaced", pieces("second"));
      expect((await collect(store.get("replaced"))).toString()).toBe("second");
      const texts = Array.from({ length: 8 }, (_, index) => String(index).repeat(100_000));
      await Promise.all(texts.map((text) => store.put("raced/deep/er", pieces(text))));
      expect(texts).toContain((await collect(store.get("raced/deep/er"))).toString());
    });

    test("what is not there is said to be missing, and deleting it is no error", async () => {
      await expect(collect(store.get("nothing/here"))).rejects.toBeInstanceOf(BlobMissingError);
      expect(await store.stat("nothing/here")).toBeUndefined();
      await store.delete("nothing/here");
      await store.put("gone", pieces("x"));
      await store.delete("gone");
      await expect(collect(store.get("gone"))).rejects.toBeInstanceOf(BlobMissingError);
      expect(await keys(store, "gone")).toEqual([]);
    });

    test("a content that fails on its way leaves what was there, or nothing", async () => {
      async function* failing(bytes: number): AsyncGenerator<Uint8Array> {
        for (let sent = 0; sent < bytes; sent += mebibyte) yield Buffer.alloc(mebibyte);
        throw new Error("the source failed");
      }
      await store.put("kept", pieces("what was"));
      for (const size of [0, 3, 13]) {
        await expect(store.put("kept", failing(size * mebibyte))).rejects.toThrow("the source failed");
        await expect(store.put(`never/${size}`, failing(size * mebibyte))).rejects.toThrow("the source failed");
      }
      expect((await collect(store.get("kept"))).toString()).toBe("what was");
      expect(await keys(store, "never")).toEqual([]);
    });

    test("keys are listed by their beginning", async () => {
      const some = ["l/a", "l/a-b", "l/a.b", "l/a/b", "l/a/b/c", "l/a0", "l/ab", "l/b/1", "l/b/2"];
      for (const key of some) await store.put(key, pieces(key));
      expect(await keys(store, "l/")).toEqual(some);
      expect(await keys(store, "l/a/")).toEqual(["l/a/b", "l/a/b/c"]);
      expect(await keys(store, "l/a/b")).toEqual(["l/a/b", "l/a/b/c"]);
      expect(await keys(store, "l/b")).toEqual(["l/b/1", "l/b/2"]);
      expect(await keys(store, "l/none")).toEqual([]);
      expect(await keys(store, "")).toEqual(expect.arrayContaining(some));
      await store.delete("l/a/b");
      expect(await keys(store, "l/a/")).toEqual(["l/a/b/c"]);
      // A blob may have the name of what others lie below.
      expect((await collect(store.get("l/a"))).toString()).toBe("l/a");
    });

    test("a blob that is not what was stored is told at its end", async () => {
      const digest = await store.put("damaged", pieces("what was stored"));
      await store.put("damaged", pieces("something else!"));
      await expect(collect(store.get("damaged", digest))).rejects.toBeInstanceOf(BlobDamagedError);
      await expect(collect(store.get("damaged", { ...digest, bytes: 3 }))).rejects.toBeInstanceOf(BlobDamagedError);
    });

    test.each([
      "",
      "/a",
      "a/",
      "a//b",
      "..",
      "a/..",
      "a/../b",
      ".a",
      "A",
      "a b",
      "a@",
      "a%2f",
      "é",
      "a\0",
      "a\\b",
      "x".repeat(201),
      `${"a/".repeat(256)}a`,
    ])("the key %j is refused by everything", async (key) => {
      await expect(store.put(key, pieces("x"))).rejects.toBeInstanceOf(BlobKeyError);
      await expect(collect(store.get(key))).rejects.toBeInstanceOf(BlobKeyError);
      await expect(store.stat(key)).rejects.toBeInstanceOf(BlobKeyError);
      await expect(store.delete(key)).rejects.toBeInstanceOf(BlobKeyError);
      if (key !== "" && key !== "a/") await expect(keys(store, key)).rejects.toBeInstanceOf(BlobKeyError);
    });

    test("a large content passes through little memory", async () => {
      setFlagsFromString("--expose-gc");
      const collectGarbage = runInNewContext("gc") as () => void;
      const size = 160 * mebibyte;
      let most = 0;
      collectGarbage();
      const before = process.memoryUsage().arrayBuffers;
      const look = (): void => {
        collectGarbage();
        most = Math.max(most, process.memoryUsage().arrayBuffers - before);
      };
      async function* large(): AsyncGenerator<Uint8Array> {
        for (let sent = 0; sent < size; sent += mebibyte) {
          if (sent % (16 * mebibyte) === 0) look();
          yield Buffer.alloc(mebibyte, sent / mebibyte);
        }
      }
      const digest = await store.put("large", large());
      let read = 0;
      for await (const piece of store.get("large", digest)) {
        if (Math.floor(read / (16 * mebibyte)) !== Math.floor((read + piece.length) / (16 * mebibyte))) look();
        read += piece.length;
      }
      expect(read).toBe(size);
      // What the service in this process keeps of a part counts too.
      expect(most).toBeLessThan(96 * mebibyte);
      await store.delete("large");
    });

    test("who stops reading early holds nothing open", async () => {
      await store.put("early", pieces(randomBytes(4 * mebibyte)));
      for (let times = 0; times < 50; times += 1) for await (const _ of store.get("early")) break;
      expect((await collect(store.get("early"))).length).toBe(4 * mebibyte);
    });
  });
}
