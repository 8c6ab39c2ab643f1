import { createPrivateKey, createPublicKey, generateKeyPairSync, randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { link, mkdir, open, rm } from "node:fs/promises";
import path from "node:path";
import { calculateJwkThumbprint, exportJWK, type JWK } from "jose";

/** The key of the built-in issuer. `kid` is the thumbprint of the public half. */
export type IssuerKey = { kid: string; privateJwk: JWK; publicJwk: JWK };

/** The key file of the built-in issuer cannot be used. The message names the file and never quotes its content. */
export class IssuerKeyError extends Error {
  readonly file: string;

  constructor(file: string, problem: string, options?: ErrorOptions) {
    super(`issuer key file ${file}: ${problem}`, options);
    this.name = "IssuerKeyError";
    this.file = file;
  }
}

const FILE_NAME = "issuer.jwk";
const MAX_FILE_BYTES = 4_096;
const GROUP_AND_WORLD = 0o077;

/** The key in this data directory, made if there is none. Two processes at once end up with the same key. */
export async function ensureIssuerKey(dataDir: string): Promise<IssuerKey> {
  const file = path.join(dataDir, FILE_NAME);
  const existing = await readKeyFile(file);
  if (existing) return existing;
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  await writeKeyFile(file);
  return readIssuerKey(dataDir);
}

/** The key in this data directory. Rejects with `IssuerKeyError` when there is none. */
export async function readIssuerKey(dataDir: string): Promise<IssuerKey> {
  const file = path.join(dataDir, FILE_NAME);
  const key = await readKeyFile(file);
  if (!key) throw new IssuerKeyError(file, "is not there; it is made at the first start of Carrel in this data directory");
  return key;
}

async function readKeyFile(file: string): Promise<IssuerKey | undefined> {
  const handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch((error: unknown) => {
    if (isErrno(error, "ENOENT")) return undefined;
    throw new IssuerKeyError(file, "cannot be opened", { cause: error });
  });
  if (!handle) return undefined;
  try {
    const stats = await handle.stat();
    if (!stats.isFile() || stats.size > MAX_FILE_BYTES) throw new IssuerKeyError(file, "is not a key file");
    if ((stats.mode & GROUP_AND_WORLD) !== 0) {
      throw new IssuerKeyError(file, "group and world must have no rights (chmod 0600)");
    }
    return await parseKey(file, await handle.readFile("utf8"));
  } finally {
    await handle.close();
  }
}

async function parseKey(file: string, content: string): Promise<IssuerKey> {
  try {
    const privateKey = createPrivateKey({ key: JSON.parse(content), format: "jwk" });
    if (privateKey.asymmetricKeyType !== "ed25519") throw new Error("not an Ed25519 key");
    // From the private half: a public half in the file that does not fit would make tokens nobody accepts.
    const publicJwk = await exportJWK(createPublicKey(privateKey));
    const kid = await calculateJwkThumbprint(publicJwk);
    return { kid, privateJwk: await exportJWK(privateKey), publicJwk: { ...publicJwk, kid } };
  } catch {
    // The parser's message may quote the file, so it is not kept as a cause.
    throw new IssuerKeyError(file, "does not hold an Ed25519 private key as a JSON Web Key");
  }
}

/** Writes a new key beside the file and links it into place: the file is there whole or not at all, and never replaced. */
async function writeKeyFile(file: string): Promise<void> {
  const { privateKey } = generateKeyPairSync("ed25519");
  const temporary = `${file}.${randomUUID()}`;
  try {
    const handle = await open(temporary, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o600);
    try {
      await handle.writeFile(`${JSON.stringify(await exportJWK(privateKey))}\n`);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await link(temporary, file).catch((error: unknown) => {
      if (!isErrno(error, "EEXIST")) throw error;
    });
  } finally {
    await rm(temporary, { force: true });
  }
  await syncFolder(path.dirname(file));
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function isErrno(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
