// One installation with everything that can be broken: its control plane as a process, its Postgres as another, and proxies
// between clients, server and database.
import { join } from "node:path";
import { type Closers, closeAll } from "../../server/assembly/closers.ts";
import { connectDatabase } from "../../server/db/connect.ts";
import { startEmbeddedPostgres } from "../../server/db/embedded.ts";
import { findPostmaster } from "../../server/db/embedded-process.ts";
import { readLocalIssuer } from "../../server/identity/local-issuer.ts";
import { createInstallation, type Installation, plantedKey } from "../support/carrel.ts";
import { type CuttingProxy, startCuttingProxy } from "../support/cutting-proxy.ts";
import { type Keeper, keepServer } from "../support/keeper.ts";
import { clientsWith, type Person } from "../support/person.ts";
import type { TestDatabase } from "../support/postgres.ts";
import { silentLog } from "../support/postgres-server.ts";
import { repeated } from "../support/repeated.ts";
import { destroySandboxes, placesOf } from "../support/sandboxes.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";
import { unlimited } from "../support/unlimited.ts";
import type { Random } from "./random.ts";

export type World = {
  installation: Installation;
  keeper: Keeper;
  person: Person;
  random: Random;
  /** Answers of the model, as it counted them. */
  provider: { whole: number; begun: number };
  limits: { concurrentSessions: number; profiles: number };
  /** What the next process of the server is given besides the installation's; its sandboxes are not. */
  processEnvironment: Record<string, string>;
  /** The process of Postgres, while there is one. */
  postmaster(): number | undefined;
  /** Between clients and the server, and between the server and Postgres. */
  proxies: { clients: CuttingProxy; database: CuttingProxy | undefined };
  /** After a Postgres that was ended: resolves when it is there again. */
  revivePostgres(): Promise<void>;
  close(): Promise<void>;
};

export type WorldOptions = {
  random: Random;
  /** `embedded` is the server's own, which it starts again by itself; `proxied` is reached over TCP through a proxy. */
  postgres: "embedded" | "proxied";
};

const concurrentSessions = 12;

const settings = {
  ...unlimited,
  CARREL_LIMIT_CONCURRENT_SESSIONS: String(concurrentSessions),
  CARREL_STANDBY_SANDBOXES: "1",
  CARREL_DRAIN_MS: "2000",
  CARREL_HEARTBEAT_MS: "1000",
  CARREL_HEARTBEAT_STALE_MS: "6000",
  CARREL_DISK_RESERVE_BYTES: "0",
};

export async function createWorld(options: WorldOptions): Promise<World> {
  const closers: Closers = [];
  try {
    return await assemble(options, closers);
  } catch (error) {
    await closeAll(closers);
    throw error;
  }
}

async function assemble({ random, postgres }: WorldOptions, closers: Closers): Promise<World> {
  const provider = { whole: 0, begun: 0 };
  const apart = postgres === "proxied" ? await startApart(closers) : undefined;
  const installation = await createInstallation(settings, {
    pace: 2,
    onModelRequest({ path, status, end }) {
      if (!path.startsWith("/v1/messages") || path.includes("count_tokens") || status !== 200) return;
      provider.begun += 1;
      if (end === "complete") provider.whole += 1;
    },
    openDatabase: (directory) => openDatabase(apart?.directory ?? join(directory, "run/pg")),
  });
  closers.push(installation.remove, () => destroySandboxes(installation));
  installation.environment["DATABASE_URL"] = apart ? `postgres://carrel@127.0.0.1:${apart.proxy.port}/carrel` : "";
  const processEnvironment: Record<string, string> = { NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"] ?? "" };
  const keeper = await keepServer(installation, processEnvironment);
  const clients = await startCuttingProxy(Number(new URL(keeper.url).port));
  closers.push(keeper.close, clients.close);
  const postgresDirectory = apart?.dataDirectory ?? join(placesOf(installation).data, "postgres");
  return {
    installation,
    keeper,
    person: await signUpForLong(installation, `http://127.0.0.1:${clients.port}`),
    random,
    provider,
    limits: { concurrentSessions, profiles: 10 },
    processEnvironment,
    postmaster: () => findPostmaster(postgresDirectory)?.pid,
    proxies: { clients, database: apart?.proxy },
    async revivePostgres() {
      // The server brings its own one back; the other one is ours.
      await apart?.postgres.ensureRunning();
      await repeated(() => installation.database.db.selectFrom("session").select("id").limit(1).execute());
    },
    close: () => closeAll(closers),
  };
}

/** A Postgres that is not the server's own, in a directory of its own, because it outlives the rest by a moment. */
async function startApart(closers: Closers) {
  const directory = makeTemporaryDirectory("pg");
  closers.push(() => removeDirectory(directory));
  const dataDirectory = join(directory, "data");
  const postgres = await startEmbeddedPostgres({ dataDirectory, socketDirectory: directory, log: silentLog() });
  const proxy = await startCuttingProxy({ path: join(directory, ".s.PGSQL.5432") });
  closers.push(postgres.stop, proxy.close);
  return { directory, dataDirectory, postgres, proxy };
}

const hourMs = 3_600_000;

/** With a token that is good for servers whose clocks are hours wrong. */
async function signUpForLong(installation: Installation, url: string): Promise<Person> {
  const issuer = await readLocalIssuer(placesOf(installation).data, () => Date.now() - 3 * hourMs);
  const person = clientsWith(url, await issuer.issueToken({ email: "faults@example.com", ttlMs: 12 * hourMs, operator: false }));
  await person.registration.register({});
  await person.credentials.setApiKey({ apiKey: plantedKey });
  return person;
}

function openDatabase(socketDirectory: string): TestDatabase {
  const connection = { host: socketDirectory, port: 5432, user: "carrel", database: "carrel" };
  const { db, close } = connectDatabase({ connection, poolSize: 4, log: silentLog() });
  return { connection, db, drop: close };
}

/** Where the files of an installation's object store are. */
export function blobsOf(installation: Installation): string {
  return join(placesOf(installation).data, "blobs");
}
