import { constants } from "node:fs";
import { type FileHandle, link, open, rm } from "node:fs/promises";
import path from "node:path";
import { KeyFileError } from "./errors.ts";
import { type CryptoProvider, KEY_BYTES } from "./sodium.ts";

/*
 * The root key file: one 32-byte key per line, 64 hexadecimal digits, nothing else; the last line may end with a
 * newline. The first key is active, the others only decrypt. `openssl rand -hex 32` writes a valid one.
 */

const DIGITS_PER_KEY = KEY_BYTES * 2;
const NEWLINE = 0x0a;
const MAX_FILE_BYTES = 64 * 1024;
const GROUP_AND_WORLD = 0o077;

/**
 * Reads the root keys, active one first. The caller wipes them. Throws `KeyFileError` when the file is missing, is
 * no regular file, may be touched by group or world, or holds anything but distinct, non-zero keys.
 */
export async function readKeyFile(sodium: CryptoProvider, file: string): Promise<Uint8Array[]> {
  const content = await readPrivateFile(sodium, file);
  try {
    return parseKeys(sodium, file, content);
  } finally {
    sodium.memzero(content);
  }
}

/**
 * Makes a key file with one new random key, mode 0400. Throws `KeyFileError` when the path exists already. The file
 * is written aside, made durable and then linked, so that a crash leaves either no key file or a whole one.
 */
export async function createRootKeyFile(sodium: CryptoProvider, file: string): Promise<void> {
  const aside = `${file}.${Buffer.from(sodium.random(8)).toString("hex")}.new`;
  const key = sodium.random(KEY_BYTES);
  const line = Buffer.from(`${Buffer.from(key.buffer).toString("hex")}\n`, "ascii");
  sodium.memzero(key);
  try {
    await writeDurably(aside, line);
    await link(aside, file);
    await syncFolder(path.dirname(file));
  } catch (error) {
    throw new KeyFileError(file, errorCode(error) === "EEXIST" ? "exists already" : "cannot be made", { cause: error });
  } finally {
    sodium.memzero(line);
    await rm(aside, { force: true });
  }
}

async function readPrivateFile(sodium: CryptoProvider, file: string): Promise<Buffer> {
  let handle: FileHandle;
  try {
    handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const problem = errorCode(error) === "ENOENT" ? "does not exist" : "cannot be opened";
    throw new KeyFileError(file, problem, { cause: error });
  }
  try {
    // Asked of the open file and not of its path, which could be another file by now.
    const stats = await handle.stat();
    if (!stats.isFile()) throw new KeyFileError(file, "is not a regular file");
    if ((stats.mode & GROUP_AND_WORLD) !== 0) {
      const mode = (stats.mode & 0o777).toString(8).padStart(4, "0");
      throw new KeyFileError(file, `its mode is ${mode}; group and world must have no rights (chmod 0400)`);
    }
    if (stats.size > MAX_FILE_BYTES) throw new KeyFileError(file, `is longer than ${MAX_FILE_BYTES} bytes`);
    const content = Buffer.alloc(stats.size);
    const { bytesRead } = await handle.read(content, 0, content.length, 0);
    if (bytesRead !== content.length) {
      sodium.memzero(content);
      throw new KeyFileError(file, "changed while it was read");
    }
    return content;
  } finally {
    await handle.close();
  }
}

function parseKeys(sodium: CryptoProvider, file: string, content: Buffer): Uint8Array[] {
  const keys: Uint8Array[] = [];
  try {
    for (let start = 0; start < content.length; start += DIGITS_PER_KEY + 1) {
      const number = keys.length + 1;
      const end = content.indexOf(NEWLINE, start);
      const line = content.subarray(start, end === -1 ? content.length : end);
      const key = parseKey(line);
      if (key === null) throw new KeyFileError(file, `line ${number} is not ${DIGITS_PER_KEY} hexadecimal digits`);
      const twin = keys.findIndex((other) => sodium.memcmp(other, key));
      keys.push(key);
      if (key.every((byte) => byte === 0)) throw new KeyFileError(file, `line ${number} is the zero key`);
      if (twin !== -1) throw new KeyFileError(file, `line ${number} repeats the key of line ${twin + 1}`);
    }
    if (keys.length === 0) throw new KeyFileError(file, "holds no key");
    return keys;
  } catch (error) {
    for (const key of keys) sodium.memzero(key);
    throw error;
  }
}

/** Works on bytes, since a string could not be wiped. Null when the line is anything but 64 hexadecimal digits. */
function parseKey(line: Uint8Array): Uint8Array | null {
  if (line.length !== DIGITS_PER_KEY) return null;
  const key = new Uint8Array(KEY_BYTES);
  for (const [at, byte] of line.entries()) {
    const digit = hexDigit(byte);
    if (digit === null) return null;
    key[at >> 1] = ((key[at >> 1] ?? 0) << 4) | digit;
  }
  return key;
}

function hexDigit(byte: number): number | null {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const lower = byte | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x61 + 10 : null;
}

async function writeDurably(file: string, content: Uint8Array): Promise<void> {
  const handle = await open(file, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o400);
  try {
    await handle.writeFile(content);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function errorCode(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}
