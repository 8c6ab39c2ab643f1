// The only reader of process.env. Everything is checked here, and every problem is reported at once, by name.
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { arch, platform } from "node:process";
import { fileURLToPath } from "node:url";
import {
  boolean,
  exceptions,
  file,
  integer,
  issuers,
  list,
  number,
  type OidcIssuerSetting,
  oneOf,
  optional,
  path,
  text,
  url,
} from "./config-values.ts";
import type { SandboxChoice } from "./sandbox/select.ts";

export type Config = Readonly<{
  host: string;
  port: number;
  publicUrl: URL | undefined;
  tls: { key: string; cert: string } | undefined;
  allowedOrigins: readonly string[];
  dataDirectory: string;
  runtimeDirectory: string;
  databaseUrl: string | undefined;
  databasePoolSize: number;
  rootKeyFile: string;
  oidcIssuers: readonly OidcIssuerSetting[];
  allowedEmailDomains: readonly string[];
  sandbox: SandboxChoice;
  sandboxLimits: { memoryBytes: number; cpus: number; processes: number };
  sandboxSpace: { workspaceBytes: number; homeBytes: number };
  standbySandboxes: number;
  claudePath: string;
  runnerPath: string;
  anthropicBaseUrl: URL;
  modelSilenceMs: number;
  modelTries: number;
  priceTable: string | undefined;
  allowPrivate: readonly string[];
  demo: boolean;
  region: string;
  logLevel: string;
  startupTimeoutMs: number;
  stepTries: number;
  /** Milliseconds that the steps of a session fail at the least before it is parked; no setting: tests have no ten minutes. */
  parkAfterMs?: number;
  heartbeatMs: number;
  heartbeatStaleMs: number;
  /** Where large things are kept, when not in the data directory. */
  s3: { endpoint: URL; region: string; bucket: string; accessKeyId: string; secretAccessKey: string } | undefined;
  idleHibernateMs: number;
  archiveTimeoutMs: number;
  reserveBytes: number;
  snapshotBytes: number;
  snapshotsKept: number;
  retentionMs: number;
  drainMs: number;
  maxSessionMs: number;
  approvalTimeoutMs: number;
  limits: {
    concurrentSessions: number;
    messageBytes: number;
    socketMessagesPerSecond: number;
    profiles: number;
    callsAtOnce: number;
    perMinute: { registrations: number; sessionCreates: number; prompts: number; tickets: number };
  };
}>;

/** One environment variable: what README says of it, and how its text becomes a value. */
export type Setting<T> = { name: string; describe: string; default: string; parse(text: string): T };

/** Every variable Carrel reads, in README's order. */
export const settings = {
  port: setting("CARREL_PORT", "8080", "port to serve on; 0 takes any free one", integer(0, 65_535)),
  host: setting("CARREL_HOST", "127.0.0.1", "address to serve on", text),
  publicUrl: setting("CARREL_PUBLIC_URL", "", "URL people reach this server by, behind a proxy", optional(url)),
  tlsKey: setting("CARREL_TLS_KEY_FILE", "", "private key (PEM) to serve TLS with", optional(file)),
  tlsCert: setting("CARREL_TLS_CERT_FILE", "", "certificate chain (PEM) to serve TLS with", optional(file)),
  allowedOrigins: setting("CARREL_ALLOWED_ORIGINS", "", "browser origins besides the server's own, comma-separated", list),
  dataDirectory: setting("CARREL_DATA_DIR", "./.carrel", "keys, embedded Postgres, workspaces", path),
  runtimeDirectory: setting(
    "CARREL_RUNTIME_DIR",
    "",
    "memory-backed directory for sockets and live conversations; default below /dev/shm",
    optional(path),
  ),
  databaseUrl: setting("DATABASE_URL", "", "external Postgres instead of the embedded one", optional(text)),
  databasePoolSize: setting("CARREL_DATABASE_POOL", "20", "connections to the database", integer(2, 500)),
  rootKeyFile: setting(
    "CARREL_ROOT_KEY_FILE",
    "",
    "root key file; default `root.key` in the data directory, made on first start only",
    optional(path),
  ),
  oidcIssuers: setting(
    "CARREL_OIDC_ISSUERS",
    "",
    "trusted issuers as `issuer|audience`, comma-separated; empty: the built-in issuer only",
    issuers,
  ),
  allowedEmailDomains: setting(
    "CARREL_ALLOWED_EMAIL_DOMAINS",
    "",
    "e-mail domains that may register, comma-separated; empty: everybody",
    list,
  ),
  sandbox: setting(
    "CARREL_SANDBOX",
    "auto",
    "`auto`, `bubblewrap`, or `none` (no isolation, development only)",
    oneOf<SandboxChoice>("auto", "bubblewrap", "none"),
  ),
  memoryBytes: setting("CARREL_SANDBOX_MEMORY_BYTES", "2147483648", "memory of one sandbox", integer(64 * 1024 * 1024, 2 ** 46)),
  cpus: setting("CARREL_SANDBOX_CPUS", "1", "processor cores of one sandbox, from a few seconds after its start", number(0.1, 1024)),
  processes: setting("CARREL_SANDBOX_PROCESSES", "512", "processes and threads of one sandbox", integer(32, 1_000_000)),
  workspaceBytes: setting(
    "CARREL_LIMIT_WORKSPACE_BYTES",
    "10737418240",
    "disk space of a new session's workspace, and the largest file in its sandbox",
    integer(64 * 1024 * 1024, 2 ** 44),
  ),
  homeBytes: setting(
    "CARREL_LIMIT_HOME_BYTES",
    "2147483648",
    "space of a new session's home, which is memory",
    integer(64 * 1024 * 1024, 2 ** 44),
  ),
  standbySandboxes: setting(
    "CARREL_STANDBY_SANDBOXES",
    "1",
    "sandboxes with a started agent kept ready, about 200 MB each, so that a new session answers at once",
    integer(0, 100),
  ),
  claudePath: setting("CARREL_CLAUDE_PATH", "", "the `claude` program; default the pinned one from npm", optional(path)),
  anthropicBaseUrl: setting("CARREL_ANTHROPIC_BASE_URL", "https://api.anthropic.com", "where the model gateway sends requests", url),
  allowPrivate: setting(
    "CARREL_EGRESS_ALLOW_PRIVATE",
    "",
    "private addresses that profiles may open: CIDRs, addresses or host:port, comma-separated; none by default",
    exceptions,
  ),
  modelSilenceMs: setting("CARREL_MODEL_SILENCE_MS", "300000", "silence of a model provider that is too long", integer(100, 3_600_000)),
  modelTries: setting("CARREL_MODEL_TRIES", "8", "failures of a model provider in a row that end a turn", integer(1, 1_000)),
  priceTable: setting("CARREL_PRICE_TABLE", "", "price table (JSON) instead of the shipped one", optional(file)),
  demo: setting("CARREL_DEMO", "false", "says on every surface that the model is a scripted one", boolean),
  region: setting("CARREL_REGION", "local", "what sessions say of where they run", text),
  logLevel: setting("CARREL_LOG_LEVEL", "info", "`debug`, `info`, `warn`, `error`", oneOf("debug", "info", "warn", "error")),
  startupTimeoutMs: setting("CARREL_STARTUP_TIMEOUT_MS", "60000", "time an agent has to start", integer(1_000, 3_600_000)),
  stepTries: setting(
    "CARREL_STEP_TRIES",
    "8",
    "failures in a row, with growing pauses up to 30 s and over 10 minutes at the least, after which a session is parked until somebody asks for it",
    integer(1, 1_000),
  ),
  heartbeatMs: setting("CARREL_HEARTBEAT_MS", "10000", "how often a runner shows that it lives", integer(100, 600_000)),
  heartbeatStaleMs: setting(
    "CARREL_HEARTBEAT_STALE_MS",
    "45000",
    "silence after which a runner is taken for lost",
    integer(500, 3_600_000),
  ),
  s3Endpoint: setting("CARREL_S3_ENDPOINT", "", "S3-compatible store for snapshots, instead of the data directory", optional(url)),
  s3Bucket: setting("CARREL_S3_BUCKET", "", "its bucket, which exists already", optional(text)),
  s3Region: setting("CARREL_S3_REGION", "us-east-1", "its region", text),
  s3AccessKeyId: setting("CARREL_S3_ACCESS_KEY_ID", "", "its access key", optional(text)),
  s3SecretAccessKey: setting("CARREL_S3_SECRET_ACCESS_KEY", "", "its secret key", optional(text)),
  idleHibernateMs: setting(
    "CARREL_IDLE_HIBERNATE_MS",
    "900000",
    "time without a turn, a prompt or an answer after which a session is put away",
    integer(1_000, 31_536_000_000),
  ),
  archiveTimeoutMs: setting(
    "CARREL_ARCHIVE_TIMEOUT_MS",
    "600000",
    "time to put a session away, and to bring one back",
    integer(1_000, 86_400_000),
  ),
  reserveBytes: setting(
    "CARREL_DISK_RESERVE_BYTES",
    "1073741824",
    "room on the data directory's disk that snapshots leave to the database",
    integer(0, 2 ** 46),
  ),
  snapshotBytes: setting(
    "CARREL_LIMIT_SNAPSHOT_BYTES",
    "10737418240",
    "what a session that is put away may take, packed",
    integer(1_048_576, 2 ** 46),
  ),
  retentionMs: setting(
    "CARREL_RETENTION_MS",
    "2592000000",
    "how long a dormant session that nobody uses is kept, and what can be forked of an ended one",
    integer(1_000, 315_360_000_000),
  ),
  snapshotsKept: setting(
    "CARREL_SNAPSHOTS_KEPT",
    "3",
    "snapshots kept of one session at least, with those they need; it can be forked at each",
    integer(1, 1_000),
  ),
  drainMs: setting("CARREL_DRAIN_MS", "10000", "time that calls under way have when the server stops", integer(0, 30_000)),
  registrations: setting(
    "CARREL_LIMIT_REGISTRATIONS_PER_MINUTE",
    "10",
    "registration requests of one person in any minute",
    integer(1, 10_000),
  ),
  sessionCreates: setting(
    "CARREL_LIMIT_SESSION_CREATES_PER_MINUTE",
    "10",
    "sessions one person may create in any minute",
    integer(1, 10_000),
  ),
  approvalTimeoutMs: setting(
    "CARREL_APPROVAL_TIMEOUT_MS",
    "300000",
    "how long an approval or question of a one-shot session waits; others wait without limit",
    integer(1_000, 604_800_000),
  ),
  maxSessionMs: setting("CARREL_MAX_SESSION_MS", "86400000", "running time after which a session ends", integer(1_000, 31_536_000_000)),
  profiles: setting("CARREL_LIMIT_PROFILES", "10", "profiles of one person", integer(1, 1_000)),
  concurrentSessions: setting(
    "CARREL_LIMIT_CONCURRENT_SESSIONS",
    "10",
    "sessions of one person that may be alive at once",
    integer(1, 100_000),
  ),
  socketMessagesPerSecond: setting(
    "CARREL_LIMIT_SOCKET_MESSAGES_PER_SECOND",
    "100",
    "messages a second on one WebSocket",
    integer(1, 100_000),
  ),
  prompts: setting("CARREL_LIMIT_PROMPTS_PER_MINUTE", "60", "prompts to one session in any minute", integer(1, 10_000)),
  tickets: setting("CARREL_LIMIT_TICKETS_PER_MINUTE", "300", "WebSocket tickets of one person in any minute", integer(1, 100_000)),
  callsAtOnce: setting(
    "CARREL_LIMIT_CALLS_AT_ONCE",
    "8",
    "calls of one person that are worked on at once; more of them wait their turn",
    integer(1, 10_000),
  ),
  messageBytes: setting("CARREL_LIMIT_MESSAGE_BYTES", "1048576", "largest request message", integer(16_384, 64 * 1024 * 1024)),
};

/** Every problem of the configuration, by variable. The process exits with 78. */
export class ConfigError extends Error {
  readonly problems: readonly string[];
  constructor(problems: readonly string[]) {
    super(`configuration: ${problems.join("; ")}`);
    this.name = "ConfigError";
    this.problems = problems;
  }
}

/** The configuration the environment describes. Throws `ConfigError` with all problems at once. */
export function readConfig(environment: Readonly<Record<string, string | undefined>> = process.env): Config {
  const problems: string[] = [];
  const read = <T>(entry: Setting<T>): T => {
    const given = environment[entry.name];
    try {
      return entry.parse(given === undefined || given === "" ? entry.default : given);
    } catch (error) {
      problems.push(`${entry.name} ${(error as Error).message}`);
      return undefined as T;
    }
  };
  const values = Object.fromEntries(Object.entries(settings).map(([key, entry]) => [key, read(entry as Setting<unknown>)])) as {
    [K in keyof typeof settings]: ReturnType<(typeof settings)[K]["parse"]>;
  };
  if ((values.tlsKey === undefined) !== (values.tlsCert === undefined))
    problems.push("CARREL_TLS_KEY_FILE and CARREL_TLS_CERT_FILE must be set together");
  const s3 = [values.s3Endpoint, values.s3Bucket, values.s3AccessKeyId, values.s3SecretAccessKey];
  if (s3.some((value) => value !== undefined) && s3.includes(undefined))
    problems.push("CARREL_S3_ENDPOINT, CARREL_S3_BUCKET, CARREL_S3_ACCESS_KEY_ID and CARREL_S3_SECRET_ACCESS_KEY must be set together");
  const claudePath = values.claudePath ?? packagedClaude();
  if (claudePath === undefined || !existsSync(claudePath))
    problems.push(`CARREL_CLAUDE_PATH: there is no claude program${claudePath ? ` at ${claudePath}` : ""}`);
  if (problems.length > 0) throw new ConfigError(problems);
  const {
    tlsKey,
    tlsCert,
    s3Endpoint: endpoint,
    s3Bucket: bucket,
    s3Region: region,
    s3AccessKeyId: accessKeyId,
    s3SecretAccessKey: secretAccessKey,
    memoryBytes,
    cpus,
    processes,
    workspaceBytes,
    homeBytes,
    concurrentSessions,
    profiles,
    messageBytes,
    socketMessagesPerSecond,
    registrations,
    sessionCreates,
    prompts,
    tickets,
    callsAtOnce,
    ...rest
  } = values;
  return Object.freeze({
    ...rest,
    claudePath: claudePath as string,
    runnerPath: fileURLToPath(new URL("../runner/dist/runner.cjs", import.meta.url)),
    runtimeDirectory: values.runtimeDirectory ?? defaultRuntimeDirectory(values.dataDirectory),
    rootKeyFile: values.rootKeyFile ?? join(values.dataDirectory, "root.key"),
    tls: tlsKey && tlsCert ? { key: readFileSync(tlsKey, "utf8"), cert: readFileSync(tlsCert, "utf8") } : undefined,
    s3: endpoint && bucket && accessKeyId && secretAccessKey ? { endpoint, region, bucket, accessKeyId, secretAccessKey } : undefined,
    sandboxLimits: { memoryBytes, cpus, processes },
    sandboxSpace: { workspaceBytes, homeBytes },
    limits: {
      concurrentSessions,
      profiles,
      callsAtOnce,
      messageBytes,
      socketMessagesPerSecond,
      perMinute: { registrations, sessionCreates, prompts, tickets },
    },
  });
}

/** Short, because socket paths are; memory-backed, because conversations in it are in clear; one for each data directory. */
function defaultRuntimeDirectory(dataDirectory: string): string {
  const tag = createHash("sha256").update(dataDirectory).digest("hex").slice(0, 12);
  return `/dev/shm/carrel-${process.getuid?.() ?? 0}-${tag}`;
}

function packagedClaude(): string | undefined {
  try {
    return join(createRequire(import.meta.url).resolve(`@anthropic-ai/claude-agent-sdk-${platform}-${arch}/package.json`), "../claude");
  } catch {
    return undefined;
  }
}

function setting<T>(name: string, fallback: string, describe: string, parse: (text: string) => T): Setting<T> {
  return { name, default: fallback, describe, parse };
}
