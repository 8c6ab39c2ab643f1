// One installation with everything that can be broken: its control plane as a process, its Postgres as another, and proxies
// between clients, server and database.
import { join } from "node:path";
import { connectDatabase } from "../../server/db/connect.ts";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "../../server/db/embedded.ts";
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
  environment?: Record<string, string>;
};

/** A Postgres that is not the server's own. */
type Apart = { directory: string; dataDirectory: string; postgres?: EmbeddedPostgres; proxy?: CuttingProxy };

const concurrentSessions = 12;

export async function createWorld({ random, postgres, environment = {} }: WorldOptions): Promise<World> {
  const provider = { whole: 0, begun: 0 };
  // Of its own, because it outlives the rest of the installation by a moment.
  const apart = { directory: makeTemporaryDirectory("pg"), dataDirectory: "" } as Apart;
  const installation = await createInstallation(
    {
      ...unlimited,
      CARREL_LIMIT_CONCURRENT_SESSIONS: String(concurrentSessions),
      CARREL_STANDBY_SANDBOXES: "0",
      CARREL_DRAIN_MS: "2000",
      CARREL_HEARTBEAT_MS: "1000",
      CARREL_HEARTBEAT_STALE_MS: "6000",
      CARREL_DISK_RESERVE_BYTES: "0",
      ...environment,
    },
    {
      pace: 2,
      onModelRequest({ path, status, end }) {
        if (!path.startsWith("/v1/messages") || path.includes("count_tokens") || status !== 200) return;
        provider.begun += 1;
        if (end === "complete") provider.whole += 1;
      },
      async openDatabase(directory) {
        apart.dataDirectory = postgres === "embedded" ? join(directory, "data/postgres") : join(apart.directory, "data");
        if (postgres === "embedded") return openDatabase(join(directory, "run/pg"));
        const { dataDirectory, directory: socketDirectory } = apart;
        apart.postgres = await startEmbeddedPostgres({ dataDirectory, socketDirectory, log: silentLog() });
        apart.proxy = await startCuttingProxy({ path: join(socketDirectory, ".s.PGSQL.5432") });
        return openDatabase(socketDirectory);
      },
    },
  );
  installation.environment["DATABASE_URL"] = apart.proxy ? `postgres://carrel@127.0.0.1:${apart.proxy.port}/carrel` : "";
  const processEnvironment: Record<string, string> = { NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"] ?? "" };
  const keeper = await keepServer(installation, processEnvironment);
  const clients = await startCuttingProxy(Number(new URL(keeper.url).port));
  const person = await signUpForLong(installation, `http://127.0.0.1:${clients.port}`);
  return {
    installation,
    keeper,
    person,
    random,
    provider,
    limits: { concurrentSessions, profiles: 10 },
    processEnvironment,
    postmaster: () => findPostmaster(apart.dataDirectory)?.pid,
    proxies: { clients, database: apart.proxy },
    async revivePostgres() {
      // The server brings its own one back; the other one is ours.
      await apart.postgres?.ensureRunning();
      await repeated(() => installation.database.db.selectFrom("session").select("id").limit(1).execute());
    },
    async close() {
      await clients.close();
      await keeper.close();
      await destroySandboxes(installation);
      await installation.remove();
      await apart.proxy?.close();
      await apart.postgres?.stop();
      removeDirectory(apart.directory);
    },
  };
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
