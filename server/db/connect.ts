/** The pool of connections that everything but the doorbell shares. */
import { Kysely, PostgresDialect, sql } from "kysely";
import pg from "pg";
import type { Database } from "./database.ts";
import { isServerUnavailable } from "./failures.ts";
import type { DatabaseLog } from "./log.ts";
import { createPreparingClients } from "./prepared.ts";

/** Where the database is: a postgres:// URL, or pg's own settings. */
export type DatabaseAddress = string | pg.PoolConfig;

/**
 * @param onLost told of every sign that the server is gone (a cut connection, a refused one): the place to call
 *   `ensureRunning` of the embedded Postgres. Not told of failed statements.
 * @param statementTimeoutMs default 30 s; `lockTimeoutMs` default 10 s.
 * @param silenceMs how long after its timeout a statement is waited for that the server does not answer at all; default 5 s.
 */
export type ConnectOptions = {
  connection: DatabaseAddress;
  poolSize: number;
  log: DatabaseLog;
  onLost?: (error: Error) => void;
  statementTimeoutMs?: number;
  lockTimeoutMs?: number;
  silenceMs?: number;
};

export type DatabaseConnection = { db: Kysely<Database>; close(): Promise<void> };

/** Opens nothing yet: the first query connects. */
export function connectDatabase(options: ConnectOptions): DatabaseConnection {
  const { log, onLost = () => undefined, statementTimeoutMs = 30_000, silenceMs = 5_000 } = options;
  const pool = new pg.Pool({
    ...poolConfig(options.connection),
    max: options.poolSize,
    connectionTimeoutMillis: 5_000,
    keepAlive: true,
    statement_timeout: statementTimeoutMs,
    // Ours, because a server behind a dead network keeps no promises; TCP alone would notice in minutes, or never.
    query_timeout: statementTimeoutMs + silenceMs,
    lock_timeout: options.lockTimeoutMs ?? 10_000,
    idle_in_transaction_session_timeout: 30_000,
    types: { getTypeParser },
  });
  const report = (error: Error): void => {
    log.warn({ error: error.message }, "database connection lost");
    onLost(error);
  };
  // On the client, not only the pool: the pool stops listening while a client is lent out, and an unheard error ends the process.
  pool.on("connect", (client) => client.on("error", report));
  pool.on("error", (error) => log.debug({ error: error.message }, "idle database connection removed"));

  const preparing = createPreparingClients();
  const connect = async (): Promise<pg.PoolClient> => {
    try {
      return preparing(await pool.connect());
    } catch (error) {
      if (isServerUnavailable(error)) report(error as Error);
      throw error;
    }
  };
  const dialect = new PostgresDialect({ pool: { connect, end: () => pool.end(), options: pool.options } as pg.Pool });
  const db = new Kysely<Database>({ dialect });
  return { db, close: () => db.destroy() };
}

/** pg's settings for one of its clients or pools at this address. */
export function poolConfig(address: DatabaseAddress): pg.PoolConfig {
  return typeof address === "string" ? { connectionString: address } : address;
}

const INT8 = 20;

/** Counts and sums come as int8. They are numbers here, and one too large to be exact is an error rather than a rounded value. */
function getTypeParser(oid: number, format?: "text" | "binary"): (value: string) => unknown {
  return oid === INT8 && format !== "binary" ? parseSafeInteger : pg.types.getTypeParser(oid, format as "text");
}

function parseSafeInteger(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new RangeError(`the database answered ${text}, too large to be exact as a number`);
  return value;
}

/** The server may acknowledge what a crash then loses. `settings` names the ones that are not `on`. */
export class DatabaseNotDurableError extends Error {
  readonly settings: string[];

  constructor(settings: string[]) {
    super(`the database may lose acknowledged writes in a crash: ${settings.join(", ")} must be on`);
    this.name = "DatabaseNotDurableError";
    this.settings = settings;
  }
}

/** Throws `DatabaseNotDurableError` unless a commit that was acknowledged is on disk. */
export async function verifyDurability(db: Kysely<Database>): Promise<void> {
  // With synchronous standbys these levels of synchronous_commit promise at least what `on` promises to a single server.
  const { rows } = await sql<{ name: string }>`
    select name from pg_settings
    where (name in ('fsync', 'full_page_writes') and setting <> 'on')
       or (name = 'synchronous_commit' and setting not in ('on', 'remote_apply'))
    order by name`.execute(db);
  if (rows.length > 0) throw new DatabaseNotDurableError(rows.map((row) => row.name));
}
