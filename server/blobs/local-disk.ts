import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, mkdir, open, readdir, rename, rm, rmdir, stat, statfs } from "node:fs/promises";
import { dirname, join } from "node:path";
import {
  type BlobDigest,
  BlobMissingError,
  type BlobStore,
  BlobStoreFullError,
  checkKey,
  checkPrefix,
  createMeter,
  verified,
} from "./store.ts";

/** Ends the name of a blob's file. No key holds this character, so a file is never in the way of a directory. */
const fileMark = "@";
/** Where contents are written before they get their names; on the same file system. */
const unfinished = "@unfinished";
const pieceBytes = 256 * 1024;

/**
 * Blobs as files below a directory, which belongs to this store alone and is used by one process.
 * @param reserveBytes room on its file system that blobs leave to others. Default 0.
 */
export async function createLocalDisk(directory: string, reserveBytes = 0): Promise<BlobStore> {
  const fileOf = (key: string) => join(directory, key + fileMark);
  // What an earlier process did not finish is nobody's.
  await rm(join(directory, unfinished), { recursive: true, force: true });
  await mkdir(join(directory, unfinished), { recursive: true, mode: 0o700 });

  return {
    async put(key, content) {
      checkKey(key);
      const aside = join(directory, unfinished, randomUUID());
      try {
        const digest = await write(aside, leavingRoom(directory, content, reserveBytes));
        await moveTo(aside, fileOf(key));
        await syncUpTo(dirname(fileOf(key)), directory);
        return digest;
      } finally {
        await rm(aside, { force: true });
      }
    },
    async *get(key, expected) {
      checkKey(key);
      const content = read(key, fileOf(key));
      yield* expected ? verified(key, content, expected) : content;
    },
    async stat(key) {
      checkKey(key);
      const found = await ifThere(stat(fileOf(key)));
      return found && { bytes: found.size };
    },
    async delete(key) {
      checkKey(key);
      await rm(fileOf(key), { force: true });
      await removeEmpty(dirname(fileOf(key)), directory);
    },
    async *list(prefix) {
      checkPrefix(prefix);
      yield* keysBelow(directory, "", prefix);
    },
  };
}

/** How much is written between two looks at the room that is left. */
const lookBytes = 16 * 1024 * 1024;

async function* leavingRoom(directory: string, content: AsyncIterable<Uint8Array>, reserveBytes: number): AsyncGenerator<Uint8Array> {
  let unseen = lookBytes;
  for await (const piece of content) {
    unseen += piece.length;
    if (unseen >= lookBytes) {
      const { bavail, bsize } = await statfs(directory);
      if (bavail * bsize < reserveBytes + lookBytes) throw new BlobStoreFullError();
      unseen = piece.length;
    }
    yield piece;
  }
}

async function write(path: string, content: AsyncIterable<Uint8Array>): Promise<BlobDigest> {
  const file = await open(path, "wx", 0o600);
  try {
    const meter = createMeter();
    for await (const piece of meter.pass(content)) await writeAll(file, piece);
    await file.sync();
    return meter.digest();
  } catch (error) {
    throw (error as NodeJS.ErrnoException).code === "ENOSPC" ? new BlobStoreFullError() : error;
  } finally {
    await file.close();
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await file.write(bytes, done)).bytesWritten;
}

async function* read(key: string, path: string): AsyncGenerator<Uint8Array> {
  const file = await ifThere(open(path, constants.O_RDONLY | constants.O_NOFOLLOW));
  if (!file) throw new BlobMissingError(key);
  try {
    for (;;) {
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(pieceBytes), 0, pieceBytes, null);
      if (bytesRead === 0) return;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}

/** Somebody who deletes the last blob of a directory removes the directory, perhaps just now. */
async function moveTo(from: string, to: string): Promise<void> {
  for (let attempts = 1; ; attempts += 1) {
    await mkdir(dirname(to), { recursive: true, mode: 0o700 });
    try {
      return await rename(from, to);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT" || attempts === 20) throw error;
    }
  }
}

/** A name is on disk when its directory is. */
async function syncUpTo(path: string, top: string): Promise<void> {
  const directory = await ifThere(open(path, constants.O_RDONLY | constants.O_DIRECTORY));
  try {
    await directory?.sync();
  } finally {
    await directory?.close();
  }
  if (path !== top) await syncUpTo(dirname(path), top);
}

async function removeEmpty(path: string, top: string): Promise<void> {
  if (path === top) return;
  try {
    await rmdir(path);
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (code === "ENOTEMPTY") return;
    if (code !== "ENOENT") throw error;
  }
  await removeEmpty(dirname(path), top);
}

async function* keysBelow(directory: string, path: string, prefix: string): AsyncGenerator<string> {
  for (const entry of (await ifThere(readdir(directory, { withFileTypes: true }))) ?? []) {
    if (entry.isDirectory()) {
      const below = `${path}${entry.name}/`;
      const mayHold = below.startsWith(prefix) || prefix.startsWith(below);
      if (mayHold && entry.name !== unfinished) yield* keysBelow(join(directory, entry.name), below, prefix);
    } else if (entry.name.endsWith(fileMark)) {
      const key = path + entry.name.slice(0, -fileMark.length);
      if (key.startsWith(prefix)) yield key;
    }
  }
}

async function ifThere<T>(looking: Promise<T>): Promise<T | undefined> {
  try {
    return await looking;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
