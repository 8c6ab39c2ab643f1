/**
 * The embedded Postgres: a real server from npm's binaries, on a Unix socket only, in a data directory of ours.
 *
 * It lives apart from the control plane: a killed control plane leaves it running and the next one adopts it; a killed
 * Postgres is started again and recovers from its own log. Two control planes over one data directory are prevented
 * elsewhere, by the lock on CARREL_DATA_DIR.
 */
import { execFile, type StdioOptions, spawn } from "node:child_process";
import { chmodSync, closeSync, existsSync, mkdirSync, openSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import pg from "pg";
import { locatePostgresBinaries, type PostgresBinaries } from "./embedded-binaries.ts";
import { chooseIdentity, giveTo, type Identity } from "./embedded-identity.ts";
import { clusterName, findPostmaster, findProcesses, removeStalePidFile, signalAll, trimLog } from "./embedded-process.ts";
import type { DatabaseLog } from "./log.ts";

export type EmbeddedPostgres = {
  /** For `connectDatabase`: the socket directory, the user and the database. */
  connectionConfig: pg.PoolConfig;
  /** Ends Postgres in order: clients are disconnected, everything is written. Idempotent. */
  stop(): Promise<void>;
  /** Resolves when Postgres accepts connections, starting it again when it is gone. Callers at the same time share one attempt. */
  ensureRunning(): Promise<void>;
};

/**
 * @param dataDirectory made when absent; belongs to Postgres alone.
 * @param socketDirectory short (a socket path has at most 107 bytes), made when absent, closed to other users: whoever can
 *   enter it is trusted, there is no password.
 * @param startTimeoutMs how long a start may take, recovery included; default two minutes.
 */
export type EmbeddedPostgresOptions = { dataDirectory: string; socketDirectory: string; log: DatabaseLog; startTimeoutMs?: number };

type Cluster = Required<EmbeddedPostgresOptions> & { binaries: PostgresBinaries; identity: Identity; logFile: string; command: string[] };

const PORT = 5432;
const USER = "carrel";
const DATABASE = "carrel";
const STOP_PATIENCE_MS = 15_000;
/** Backends of a killed postmaster leave by themselves when idle; one in a long statement is told to after this long. */
const ORPHAN_PATIENCE_MS = 500;

export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const cluster = await prepareCluster({ startTimeoutMs: 120_000, ...options });
  let attempt: Promise<void> | undefined;
  let stopped = false;

  const ensureRunning = (): Promise<void> => {
    if (stopped) return Promise.reject(new Error("the embedded Postgres has been stopped"));
    attempt ??= bringUp(cluster).finally(() => {
      attempt = undefined;
    });
    return attempt;
  };
  await ensureRunning();
  await createDatabase(cluster);
  const trimming = setInterval(() => trimLog(cluster.logFile), 60_000).unref();

  return {
    connectionConfig: connectionTo(cluster, DATABASE),
    ensureRunning,
    async stop() {
      stopped = true;
      clearInterval(trimming);
      // A failed start was reported to those who asked for it; what is left of it still has to end.
      await attempt?.catch(() => undefined);
      await shutDown(cluster);
    },
  };
}

async function prepareCluster(options: Required<EmbeddedPostgresOptions>): Promise<Cluster> {
  const dataDirectory = path.resolve(options.dataDirectory);
  const socketDirectory = path.resolve(options.socketDirectory);
  if (Buffer.byteLength(socketFileIn(socketDirectory)) > 100)
    throw new Error(`the socket directory ${socketDirectory} has too long a path`);
  const binaries = locatePostgresBinaries();
  for (const directory of [dataDirectory, socketDirectory]) mkdirSync(directory, { recursive: true, mode: 0o700 });
  const identity = chooseIdentity(binaries.postgres, dataDirectory);
  if (identity.owner !== undefined) giveTo(socketDirectory, identity.owner);
  // Only these two walls stand between other users of the machine and the database.
  for (const directory of [dataDirectory, socketDirectory]) if ((statSync(directory).mode & 0o077) !== 0) chmodSync(directory, 0o700);
  if (!existsSync(path.join(dataDirectory, "PG_VERSION"))) await initialise(dataDirectory, binaries, identity);
  refuseOtherVersion(dataDirectory, binaries);
  const command = [...identity.prefix, binaries.postgres, ...serverArguments(dataDirectory, socketDirectory)];
  return { ...options, dataDirectory, socketDirectory, binaries, identity, command, logFile: path.join(dataDirectory, "postgres.log") };
}

function serverArguments(dataDirectory: string, socketDirectory: string): string[] {
  const settings = {
    cluster_name: clusterName(dataDirectory),
    listen_addresses: "",
    port: PORT,
    unix_socket_permissions: "0700",
    // An acknowledgement means committed to disk.
    fsync: "on",
    full_page_writes: "on",
    synchronous_commit: "on",
    // Sized for a small machine that mainly runs agents.
    max_connections: 100,
    shared_buffers: "64MB",
    max_wal_size: "256MB",
    io_method: "sync",
    jit: "off",
    max_parallel_workers_per_gather: 0,
    timezone: "UTC",
    log_timezone: "UTC",
    // The log may be read by people who must not see what sessions hold: no statements, no values.
    log_error_verbosity: "terse",
    log_min_error_statement: "panic",
    log_checkpoints: "off",
  };
  return ["-D", dataDirectory, "-k", socketDirectory, ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])];
}

/** Built inside the data directory and moved up at the end, PG_VERSION last: a half-made cluster is never taken for one. */
async function initialise(dataDirectory: string, binaries: PostgresBinaries, identity: Identity): Promise<void> {
  const script = [
    'rm -rf "$1/new"',
    '"$2" -D "$1/new" -U "$3" --auth-local=trust --auth-host=reject --encoding=UTF8 --locale=C' +
      " --locale-provider=builtin --builtin-locale=C.UTF-8 --no-instructions",
    'cd "$1/new"',
    'for entry in *; do test "$entry" = PG_VERSION || { rm -rf "$1/$entry"; mv "$entry" ..; }; done',
    "mv PG_VERSION ..",
    'cd .. && rmdir new && sync -f "$1"',
  ].join(" && ");
  const [file = "/bin/sh", ...args] = [...identity.prefix, "/bin/sh", "-c", script, "sh", dataDirectory, binaries.initdb, USER];
  try {
    await promisify(execFile)(file, args, { ...identity.options, env: environment() });
  } catch (cause) {
    const { stderr = "" } = cause as { stderr?: string };
    throw new Error(`the embedded Postgres could not be set up in ${dataDirectory}: ${stderr.trim()}`, { cause });
  }
}

function refuseOtherVersion(dataDirectory: string, binaries: PostgresBinaries): void {
  const found = readFileSync(path.join(dataDirectory, "PG_VERSION"), "utf8").trim();
  if (found === binaries.majorVersion) return;
  throw new Error(
    `${dataDirectory} was made by Postgres ${found} and this Carrel brings ${binaries.majorVersion}; move its data with pg_dump of version ${found}`,
  );
}

async function bringUp(cluster: Cluster): Promise<void> {
  const begun = Date.now();
  for (let failures = 0; ; ) {
    const elapsed = Date.now() - begun;
    if (elapsed > cluster.startTimeoutMs) {
      throw new Error(`the embedded Postgres did not accept connections in ${elapsed} ms: ${lastLogLines(cluster)}`);
    }
    const running = findPostmaster(cluster.dataDirectory);
    const orphans = running === undefined ? findProcesses(cluster.dataDirectory) : [];
    if (orphans.length > 0) {
      // Postgres refuses the directory while one of them holds its shared memory.
      if (elapsed > ORPHAN_PATIENCE_MS) signalAll(orphans, elapsed > 10 * ORPHAN_PATIENCE_MS ? "SIGKILL" : "SIGQUIT");
      await sleep(20);
    } else if (running === undefined) {
      if (!(await launch(cluster)) && ++failures > 2) throw new Error(`the embedded Postgres does not start: ${lastLogLines(cluster)}`);
    } else if (!isAsWanted(cluster, running.command)) {
      // Left by another version of Carrel or with another socket directory: it holds the data, so it ends in order first.
      await shutDown(cluster);
    } else if (await acceptsConnections(cluster)) {
      return;
    } else {
      await sleep(20);
    }
  }
}

/** The program and its arguments, without what only made it run as its identity. */
function isAsWanted(cluster: Cluster, running: string[]): boolean {
  const wanted = cluster.command.slice(cluster.identity.prefix.length);
  return wanted.every((part, index) => running[index] === part);
}

/** Starts a postmaster; true when it has taken the data directory, false when it gave up. */
async function launch(cluster: Cluster): Promise<boolean> {
  removeStalePidFile(cluster.dataDirectory, socketFileIn(cluster.socketDirectory));
  trimLog(cluster.logFile);
  const logDescriptor = openSync(cluster.logFile, "a", 0o600);
  const [file = "", ...args] = cluster.command;
  // Detached: Ctrl+C in the terminal is for the control plane, which then ends Postgres itself.
  const stdio: StdioOptions = ["ignore", logDescriptor, logDescriptor];
  const child = spawn(file, args, { ...cluster.identity.options, detached: true, env: environment(), stdio });
  closeSync(logDescriptor);
  const ended = new Promise<false>((resolve, reject) => {
    child.once("exit", (code, signal) => {
      cluster.log.info({ code, signal }, "embedded postgres ended");
      resolve(false);
    });
    child.once("error", reject);
  });
  child.unref();
  const taken = async (): Promise<boolean> => {
    while (child.exitCode === null && child.signalCode === null && findPostmaster(cluster.dataDirectory)?.pid !== child.pid)
      await sleep(10);
    return child.exitCode === null && child.signalCode === null;
  };
  const started = await Promise.race([ended, taken()]);
  if (started) cluster.log.info({ pid: child.pid, identity: cluster.identity.name }, "embedded postgres started");
  return started;
}

async function shutDown(cluster: Cluster): Promise<void> {
  for (const signal of ["SIGINT", "SIGQUIT", "SIGKILL"] as const) {
    const postmaster = findPostmaster(cluster.dataDirectory);
    const processes = findProcesses(cluster.dataDirectory);
    if (processes.length === 0) return;
    // The postmaster ends its own; only orphans and the last resort are addressed one by one.
    signalAll(postmaster === undefined || signal === "SIGKILL" ? processes : [postmaster.pid], signal);
    const deadline = Date.now() + STOP_PATIENCE_MS;
    while (findProcesses(cluster.dataDirectory).length > 0 && Date.now() < deadline) await sleep(20);
  }
  const left = findProcesses(cluster.dataDirectory);
  if (left.length > 0) throw new Error(`the embedded Postgres could not be stopped; these processes are left: ${left.join(", ")}`);
}

async function acceptsConnections(cluster: Cluster): Promise<boolean> {
  const client = new pg.Client({ ...connectionTo(cluster, "postgres"), connectionTimeoutMillis: 2_000, query_timeout: 2_000 });
  client.on("error", (error) => cluster.log.info({ error: error.message }, "embedded postgres probe was cut"));
  try {
    await client.connect();
    await client.query("select 1");
    return true;
  } catch (error) {
    cluster.log.debug({ error: (error as Error).message }, "embedded postgres does not accept connections yet");
    return false;
  } finally {
    await client.end();
  }
}

async function createDatabase(cluster: Cluster): Promise<void> {
  const client = new pg.Client(connectionTo(cluster, "postgres"));
  await client.connect();
  try {
    const { rowCount } = await client.query("select from pg_database where datname = $1", [DATABASE]);
    if (rowCount === 0) await client.query(`create database ${DATABASE}`);
  } finally {
    await client.end();
  }
}

function connectionTo(cluster: Cluster, database: string): pg.PoolConfig {
  return { host: cluster.socketDirectory, port: PORT, user: USER, database };
}

function socketFileIn(socketDirectory: string): string {
  return path.join(socketDirectory, `.s.PGSQL.${PORT}`);
}

function lastLogLines(cluster: Cluster): string {
  if (!existsSync(cluster.logFile)) return "it left no log";
  return readFileSync(cluster.logFile, "utf8").trimEnd().split("\n").slice(-3).join(" | ");
}

/** Postgres gets nothing of the control plane's environment, which may hold secrets. */
function environment(): NodeJS.ProcessEnv {
  return { PATH: "/usr/local/bin:/usr/bin:/bin", LC_ALL: "C" };
}
