/** Which database failures pass by themselves. The decision to repeat stays with the caller, who knows whether repeating is safe. */

/**
 * - `conflict`: the transaction was rolled back for the sake of another; repeat it.
 * - `busy`: the server refused before doing anything; repeat it later.
 * - `lost`: the connection broke; whether a commit happened is unknown, so repeat only what recognises its own repetition.
 */
export type PassingFailure = { kind: "conflict" | "busy" | "lost"; retryAfterMs: number };

const conflict: PassingFailure = { kind: "conflict", retryAfterMs: 20 };
const busy: PassingFailure = { kind: "busy", retryAfterMs: 200 };
const lost: PassingFailure = { kind: "lost", retryAfterMs: 200 };

/** By SQLSTATE, its class (two letters), or Node's error code. */
const PASSING: Record<string, PassingFailure> = {
  "40001": conflict, // serialization_failure
  "40P01": conflict, // deadlock_detected
  "55P03": conflict, // lock_not_available: lock_timeout passed
  "53": busy, // out of disk, memory or connections
  "57P03": busy, // cannot_connect_now: starting up or recovering
  "08": lost, // connection exceptions
  "25P03": lost, // idle_in_transaction_session_timeout
  "57014": busy, // query_canceled: statement_timeout passed
  "57P01": lost, // admin_shutdown
  "57P02": lost, // crash_shutdown
  "57P05": lost, // idle_session_timeout
  ECONNREFUSED: busy,
  ENOENT: busy, // the Unix socket does not exist
  ECONNRESET: lost,
  EPIPE: lost,
  ETIMEDOUT: lost,
};

/** pg gives these no code. */
const LOST_MESSAGES =
  /^(Connection terminated|Client has encountered a connection error|Client was closed|timeout exceeded when trying to connect|Query read timeout)/;

/** Whether a statement was given up because no answer came at all, not even that it took too long. */
export function isSilence(error: unknown): boolean {
  return error instanceof Error && error.message === "Query read timeout";
}

/** Undefined for everything that would fail again, and for what is no database failure at all. */
export function passingFailure(error: unknown): PassingFailure | undefined {
  if (!(error instanceof Error)) return undefined;
  const { code, syscall } = error as { code?: unknown; syscall?: unknown };
  // Files are missing too; only a socket that is not there is a database that is away.
  if (code === "ENOENT" && syscall !== "connect") return undefined;
  if (typeof code === "string") return PASSING[code] ?? (code.length === 5 ? PASSING[code.slice(0, 2)] : undefined);
  return LOST_MESSAGES.test(error.message) ? lost : undefined;
}

/** True when the server, not the statement, is the trouble: it is gone, starting, or cut the connection. */
export function isServerUnavailable(error: unknown): boolean {
  const kind = passingFailure(error)?.kind;
  return kind === "lost" || kind === "busy";
}
