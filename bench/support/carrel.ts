import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import pg from "pg";
import { type Session, SessionStatus } from "../../gen/carrel/v1/session_pb.ts";
import { type Carrel as Client, createCarrel } from "../../sdk/node.ts";
import { readLocalIssuer } from "../../server/identity/local-issuer.ts";
import nodeFlags from "../../setup/node-flags.json" with { type: "json" };
import type { Lab } from "./lab.ts";
import { findSandboxProcesses, type SandboxProcess } from "./memory.ts";
import { startSessionTalker, terminate } from "./session-talker.ts";
import type { Talker } from "./talker.ts";

export type CarrelOptions = {
  /** CARREL_… variables besides those of the lab. No sandbox stands by unless they say so. */
  environment?: Record<string, string>;
  /** What sandboxes run; default: the real runner. */
  runnerPath?: string;
};

type Place = { directory: string; database: Lab["database"]; modelUrl: string; key: string };

export type SignedUp = { token: string; client: Client };

/** A running installation with one registered user who has a key. */
export type Carrel = {
  url: string;
  token: string;
  pid: number;
  client: Client;
  /** Processes in sandboxes, and those that keep them. */
  sandboxProcesses(): Promise<SandboxProcess[]>;
  createSession(initialPrompt?: string): Promise<Session>;
  /** A session with a started agent. */
  startTalker(): Promise<Talker>;
  endSession(sessionId: string): Promise<void>;
  /** Frees what the server no longer needs and says what it then holds; only with a `runnerPath`. */
  collectedMemory(): Promise<{ rss: number }>;
  /** One more person with a key. The client closes with the installation, at the latest. */
  signUp(email: string): Promise<SignedUp>;
  /** Ends its sessions and itself. */
  stop(): Promise<void>;
};

const stopMs = 20_000;
/** The limits of a person, out of the way: all load is one person's here. */
const unlimited = {
  CARREL_LIMIT_CONCURRENT_SESSIONS: "100",
  CARREL_LIMIT_SESSION_CREATES_PER_MINUTE: "10000",
  CARREL_LIMIT_PROMPTS_PER_MINUTE: "10000",
};
const root = new URL("../../", import.meta.url).pathname;

export async function startCarrel(options: CarrelOptions & Place): Promise<Carrel> {
  const { directory, key } = options;
  const database = await createDatabase(options.database, directory);
  const child = spawnServer(options, database);
  const url = await readyUrl(child, directory);
  const issuer = await readLocalIssuer(join(directory, "data"));
  const people: Client[] = [];
  const signUp = async (email: string): Promise<SignedUp> => {
    const token = await issuer.issueToken({ email, ttlMs: 3_600_000, operator: false });
    const client = createCarrel({ baseUrl: url, token });
    await client.registration.register({});
    await client.credentials.setApiKey({ apiKey: key });
    people.push(client);
    return { token, client };
  };
  const { token, client } = await signUp("bench@example.com");
  const talkers = new Set<Talker>();
  return {
    url,
    token,
    pid: child.pid ?? 0,
    client,
    sandboxProcesses: () => findSandboxProcesses(directory),
    createSession: async (initialPrompt = "") => (await client.sessions.createSession({ initialPrompt })).session!,
    async startTalker() {
      const talker = await startSessionTalker(client);
      talkers.add(talker);
      return { turn: talker.turn, close: () => talker.close().finally(() => talkers.delete(talker)) };
    },
    endSession: (sessionId) => terminate(client, sessionId),
    async collectedMemory() {
      child.send("collect");
      const [memory] = (await once(child, "message")) as [{ rss: number }];
      return memory;
    },
    signUp,
    stop: () => stop(child, people, talkers, directory),
  };
}

async function stop(child: ChildProcess, people: readonly Client[], talkers: ReadonlySet<Talker>, directory: string): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  try {
    for (const talker of talkers) await talker.close();
    for (const client of people) await endAll(client);
  } finally {
    for (const client of people) client.close();
    await leave(child);
  }
  await rm(runtimeOf(directory), { recursive: true, force: true });
  const left = await findSandboxProcesses(directory);
  if (left.length > 0) throw new Error(`processes of sandboxes are left: ${left.map(({ pid, name }) => `${name} ${pid}`).join(", ")}`);
}

async function leave(child: ChildProcess): Promise<void> {
  const exited = once(child, "exit");
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), stopMs);
  await exited;
  clearTimeout(timer);
}

function spawnServer(options: CarrelOptions & Place, databaseUrl: string): ChildProcess {
  const { directory, runnerPath } = options;
  const log = openSync(join(directory, "server.log"), "a");
  const program = runnerPath === undefined ? ["server/main.ts"] : ["--expose-gc", "bench/programs/server.ts", runnerPath];
  const flags = nodeFlags["server/main.ts"];
  const child = spawn(process.execPath, [...flags, ...program], {
    cwd: root,
    env: {
      PATH: process.env["PATH"] ?? "",
      HOME: directory,
      CARREL_DATA_DIR: join(directory, "data"),
      CARREL_RUNTIME_DIR: runtimeOf(directory),
      CARREL_PORT: "0",
      CARREL_ANTHROPIC_BASE_URL: options.modelUrl,
      ...unlimited,
      CARREL_STANDBY_SANDBOXES: "0",
      // As setup/run.mjs gives it to this process, and would to the server.
      NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"] ?? "",
      DATABASE_URL: databaseUrl,
      ...options.environment,
    },
    stdio: ["ignore", "pipe", log, ...(runnerPath === undefined ? [] : ["ipc" as const])],
  });
  closeSync(log);
  return child;
}

/** Memory-backed, as by default: what an agent writes there must not wait for a disk. */
function runtimeOf(directory: string): string {
  return join("/dev/shm", ...directory.split("/").slice(-2));
}

async function readyUrl(child: ChildProcess, directory: string): Promise<string> {
  for await (const line of createInterface({ input: child.stdout! })) {
    const url = /^Carrel is ready at (\S+)$/.exec(line)?.[1];
    if (url === undefined) continue;
    child.stdout!.resume();
    return url;
  }
  throw new Error(`the server ended before it was ready:\n${readFileSync(join(directory, "server.log"), "utf8").slice(-2_000)}`);
}

/** One of its own for each installation, in the Postgres they share with the floors. */
async function createDatabase(database: Lab["database"], directory: string): Promise<string> {
  const name = `bench_${directory.split("/").at(-1)}`;
  const admin = new pg.Client(database);
  await admin.connect();
  await admin.query(`create database ${pg.escapeIdentifier(name)}`);
  await admin.end();
  const { host, port, user } = database;
  return `postgres://${user}@localhost/${name}?host=${encodeURIComponent(host)}&port=${port}`;
}

async function endAll(client: Client): Promise<void> {
  const alive: string[] = [];
  for await (const session of client.allSessions()) if (session.status !== SessionStatus.ENDED) alive.push(session.id);
  await Promise.all(alive.map((sessionId) => terminate(client, sessionId)));
}
