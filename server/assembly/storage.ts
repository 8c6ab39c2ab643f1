// Where things are kept: the directories of this installation, the database, and the vault over it.
import { hash } from "node:crypto";
import { access, mkdir, statfs } from "node:fs/promises";
import { join } from "node:path";
import { createLocalDisk } from "../blobs/local-disk.ts";
import { createS3 } from "../blobs/s3.ts";
import type { BlobStore } from "../blobs/store.ts";
import type { Config } from "../config.ts";
import { connectDatabase, verifyDurability } from "../db/connect.ts";
import { startEmbeddedPostgres } from "../db/embedded.ts";
import { isServerUnavailable } from "../db/failures.ts";
import { createListener } from "../db/listen.ts";
import { migrateToLatest } from "../db/migrate.ts";
import { lockDirectory } from "../directory-lock.ts";
import type { Log } from "../log.ts";
import { createArchives } from "../snapshots/archives.ts";
import { createRootKeyFile } from "../vault/key-file.ts";
import { readRootKeyring } from "../vault/keyring.ts";
import { createSodium } from "../vault/sodium.ts";
import { createVaultStore, listCanaries } from "../vault/store.ts";
import { createVault } from "../vault/vault.ts";
import type { Closers } from "./closers.ts";

export type Storage = Awaited<ReturnType<typeof openStorage>>;

type Database = Awaited<ReturnType<typeof openDatabase>>["db"];

export async function openStorage(config: Config, log: Log, closers: Closers) {
  await mkdir(config.dataDirectory, { recursive: true, mode: 0o700 });
  const lock = await lockDirectory(config.dataDirectory);
  closers.push(lock.release);
  await mkdir(config.runtimeDirectory, { recursive: true, mode: 0o700 });
  if (!(await isMemoryBacked(config.runtimeDirectory))) {
    const message = "the runtime directory is on a disk: live conversations lie there in clear; set CARREL_RUNTIME_DIR to a tmpfs";
    log.warn({ directory: config.runtimeDirectory }, message);
  }
  const { db, keys, listener } = await openDatabase(config, log, closers);
  const { vault, keyring } = await openVault(config, keys, log, closers);
  const userVault = (userId: string) => vault.forUser(userId);
  return {
    /** Names this installation among those that share a machine or a database. */
    installation: hash("sha256", config.dataDirectory).slice(0, 16),
    db,
    listener,
    vault,
    userVault,
    archives: createArchives(await openBlobs(config), userVault),
    hashToken: (token: string) => keyring.hashToken(token),
    isReady: () => isReady(db),
  };
}

async function openDatabase(config: Config, log: Log, closers: Closers) {
  const { connection, onLost } = await findDatabase(config, log, closers);
  const { db, close } = connectDatabase({ connection, poolSize: config.databasePoolSize, log, onLost });
  closers.push(close);
  // Who waits for a key may hold a connection for work of its own, so keys come over connections that nobody can hold.
  const { db: keys, close: closeKeys } = connectDatabase({ connection, poolSize: 2, log, onLost });
  closers.push(closeKeys);
  await verifyDurability(db);
  await migrateToLatest(db);
  const listener = createListener({ connection, log, onLost });
  closers.push(listener.close);
  return { db, keys, listener };
}

async function findDatabase({ databaseUrl, dataDirectory, runtimeDirectory }: Config, log: Log, closers: Closers) {
  if (databaseUrl) return { connection: databaseUrl, onLost: () => undefined };
  const embedded = await startEmbeddedPostgres({
    dataDirectory: join(dataDirectory, "postgres"),
    socketDirectory: join(runtimeDirectory, "pg"),
    log,
  });
  closers.push(embedded.stop);
  const onLost = (): void => {
    embedded.ensureRunning().catch((error: Error) => log.error({ err: error }, "embedded Postgres does not come back"));
  };
  return { connection: embedded.connectionConfig, onLost };
}

async function openBlobs({ dataDirectory, s3, reserveBytes }: Config): Promise<BlobStore> {
  return s3 ? createS3(s3) : createLocalDisk(join(dataDirectory, "blobs"), reserveBytes);
}

async function openVault(config: Config, db: Database, log: Log, closers: Closers) {
  const sodium = await createSodium();
  const store = createVaultStore(db);
  // A new key is made only for a database that has never known one: a key that is missing must be found, not replaced.
  if ((await store.listCanaries()).length === 0 && !(await exists(config.rootKeyFile))) await createRootKeyFile(sodium, config.rootKeyFile);
  const keyring = await readRootKeyring(sodium, config.rootKeyFile);
  closers.push(() => keyring.close());
  const vault = createVault({
    sodium,
    keyring,
    store,
    audit: (event) => log.info({ audit: event.kind, user_id: event.userId, purpose: event.purpose }, "vault"),
  });
  await vault.verifyAtStart();
  closers.push(() => vault.close());
  return { vault, keyring };
}

const tmpfsMagic = 0x01021994;

async function isMemoryBacked(directory: string): Promise<boolean> {
  return (await statfs(directory)).type === tmpfsMagic;
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

async function isReady(db: Database): Promise<boolean> {
  try {
    await listCanaries(db);
    return true;
  } catch (error) {
    if (isServerUnavailable(error)) return false;
    throw error;
  }
}
