import { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { expect, test } from "vitest";
import type { ArchiveSource } from "../../../runner/archive.ts";
import { createSnapshotCalls } from "../../../runner/snapshots.ts";

/** As many pieces as no buffer on the way takes at once. */
async function* manyPieces(): AsyncGenerator<Uint8Array> {
  for (let piece = 0; piece < 64; piece += 1) yield Buffer.alloc(256 * 1024);
}

function callsOver(fetch: () => AsyncGenerator<Uint8Array>) {
  const thrown: unknown[] = [];
  // Tries once, and says what it would have tried again for.
  const persistently = async <T>(call: () => Promise<T>): Promise<T> =>
    call().catch((error: unknown) => {
      thrown.push(error);
      throw error;
    });
  const { get } = createSnapshotCalls({} as never, fetch, { sessionId: "ses_1", epoch: 1 }, persistently, { timeoutMs: 1_000 });
  return { get, thrown };
}

/** Reads a piece, as somebody who wanted only the beginning. */
async function readBeginning(archive: ArchiveSource): Promise<void> {
  const stopped = new AbortController();
  const sink = new Writable({ write: () => stopped.abort(new Error("enough")) });
  await expect(pipeline(Readable.from(archive()), sink, { signal: stopped.signal })).rejects.toThrow();
}

test("what fails after the beginning of an archive was read is no failure of the channel, and is not tried again", async () => {
  const { get, thrown } = callsOver(manyPieces);
  const failing = get([1], async ([archive]) => {
    await readBeginning(archive!);
    throw new Error("No space left on device");
  });
  await expect(failing).rejects.toThrow("No space left on device");
  expect(thrown).toEqual([]);
});

test("a channel that is cut is what is tried again, whatever came of it", async () => {
  const { get, thrown } = callsOver(async function* () {
    yield Buffer.alloc(10);
    throw new Error("cut");
  });
  const failing = get([1], async ([archive]) => {
    try {
      for await (const _piece of archive!());
    } catch {
      // Of what was unpacked until then.
    }
    throw new Error("half an archive");
  });
  await expect(failing).rejects.toThrow("cut");
  expect(thrown).toEqual([new Error("cut")]);
});
