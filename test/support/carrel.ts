/** The whole of Carrel for a test: the real app, a real database, the real agent in its sandbox, and a scripted model. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { createScriptedModel, type RecordedRequest, type ScriptedModel } from "../../demo/scripted-model/server.ts";
import { type App, createApp } from "../../server/app.ts";
import { readConfig } from "../../server/config.ts";
import type { DatabaseAddress } from "../../server/db/connect.ts";
import { type LocalIssuer, readLocalIssuer } from "../../server/identity/local-issuer.ts";
import { createLog } from "../../server/log.ts";
import type { TestDatabase } from "./postgres.ts";
import { destroySandboxes } from "./sandboxes.ts";
import { makeTemporaryDirectory, removeDirectory } from "./temporary.ts";

/** The key the scripted model accepts: what a test plants and then looks for where it must not be. */
export const plantedKey = "sk-ant-planted-5c0ffee5ecre7";

/** Where everything of one installation is kept, across restarts of its control plane. */
export type Installation = {
  directory: string;
  database: TestDatabase;
  model: ScriptedModel;
  environment: Record<string, string>;
  tokenFor(email: string, options?: { ttlMs?: number; operator?: boolean }): Promise<string>;
  remove(): Promise<void>;
};

/** What else an installation may be made of. */
export type Parts = {
  /** Milliseconds between two tokens of the model; default 5. */
  pace?: number;
  /** Told of every request of the model that is over. */
  onModelRequest?: (request: RecordedRequest) => void;
  /** Its database, given where everything of the installation is kept; default one of the test run's server. */
  openDatabase?: (directory: string) => Promise<TestDatabase> | TestDatabase;
};

/** @param environment CARREL_… variables to add or replace. */
export async function createInstallation(environment: Record<string, string> = {}, parts: Parts = {}): Promise<Installation> {
  const { pace = 5, onModelRequest = () => undefined, openDatabase = createTestDatabase } = parts;
  const directory = makeTemporaryDirectory("e2e");
  const database = await openDatabase(directory);
  const model = await createScriptedModel({ apiKeys: [plantedKey], pace, onEnd: onModelRequest });
  let issuer: LocalIssuer | undefined;
  const installation: Installation = {
    directory,
    database,
    model,
    environment: {
      PATH: process.env["PATH"] ?? "",
      HOME: directory,
      CARREL_DATA_DIR: join(directory, "data"),
      CARREL_RUNTIME_DIR: join(directory, "run"),
      CARREL_PORT: "0",
      CARREL_LOG_LEVEL: "info",
      // Tests are in a hurry; those of the limits themselves set their own.
      CARREL_LIMIT_REGISTRATIONS_PER_MINUTE: "10000",
      CARREL_LIMIT_SESSION_CREATES_PER_MINUTE: "10000",
      CARREL_LIMIT_PROMPTS_PER_MINUTE: "10000",
      CARREL_ANTHROPIC_BASE_URL: model.url,
      DATABASE_URL: databaseUrl(database.connection),
      ...environment,
    },
    async tokenFor(email, options = {}) {
      issuer ??= await readLocalIssuer(join(directory, "data"));
      return issuer.issueToken({ email, ttlMs: options.ttlMs ?? 3_600_000, operator: options.operator ?? false });
    },
    async remove() {
      // Sandboxes outlive their servers by design; those of a test must not outlive the test.
      await destroySandboxes(installation);
      await model.close();
      await database.drop();
      removeDirectory(directory);
    },
  };
  return installation;
}

/** Loaded here only: it works in tests, and a program that is none brings a database of its own. */
async function createTestDatabase(): Promise<TestDatabase> {
  const { createTestDatabase: create } = await import("./postgres.ts");
  return create();
}

/** One more installation's place on the same database, with the same root key. */
export function neighbourOf(installation: Installation, name: string): Installation {
  const directory = join(installation.directory, name);
  const environment = {
    ...installation.environment,
    CARREL_ROOT_KEY_FILE: join(installation.directory, "data", "root.key"),
    CARREL_DATA_DIR: directory,
    CARREL_RUNTIME_DIR: join(directory, "run"),
  };
  return { ...installation, environment };
}

/** The app in this process, as production builds it. Sessions still run in real sandboxes. */
export async function startApp(installation: Installation): Promise<App> {
  return createApp(readConfig(installation.environment), createLog("warn"));
}

export type CarrelProcess = { url: string; pid: number; exited: Promise<number | null>; kill(signal: NodeJS.Signals): void };

/** The server as its own process, for tests that kill it. Its log goes to `server.log` of the installation. */
export async function spawnServer(installation: Installation, environment: Record<string, string> = {}): Promise<CarrelProcess> {
  const child = spawn(process.execPath, ["server/main.ts"], {
    env: { ...installation.environment, ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  child.stderr.pipe(createWriteStream(join(installation.directory, "server.log"), { flags: "a" }));
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-2_000);
  });
  const exited = once(child, "exit").then(([code]) => code as number | null);
  const url = (await readyUrl(child)) ?? fail(`the server ended before it was ready: ${said}`);
  return { url, pid: child.pid!, exited, kill: (signal) => void child.kill(signal) };
}

async function readyUrl(child: ChildProcess): Promise<string | undefined> {
  for await (const line of createInterface({ input: child.stdout! })) {
    const url = /^Carrel is ready at (\S+)$/.exec(line)?.[1];
    if (url) {
      child.stdout!.resume();
      return url;
    }
  }
  await once(child, "close");
  return undefined;
}

function fail(message: string): never {
  throw new Error(message);
}

/** As a URL, which a server can be given. */
export function databaseUrl(address: DatabaseAddress): string {
  if (typeof address === "string") return address;
  const url = new URL("postgres://localhost");
  url.username = address.user ?? "";
  url.password = typeof address.password === "string" ? address.password : "";
  url.pathname = address.database ?? "";
  if (address.host) url.searchParams.set("host", address.host);
  if (address.port) url.searchParams.set("port", String(address.port));
  return url.href;
}
