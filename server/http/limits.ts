/** What one client may cost. Every number is explicit, so that no default of a library decides how much abuse is taken. */
export type HttpLimits = {
  /** Largest request message or body, bytes. */
  requestBytes: number;
  /** Largest response message, bytes. */
  responseBytes: number;
  /** Largest header block, bytes. */
  headerBytes: number;
  /** How long a new connection may take until its headers are complete, milliseconds. */
  headersTimeoutMs: number;
  /** How long a request body may take, milliseconds. Client streams are exempt on HTTP/2. */
  bodyTimeoutMs: number;
  /** How long a connection without a request stays open, milliseconds. */
  idleTimeoutMs: number;
  /** How long an HTTP/1.1 socket may carry no byte at all while a response is open, milliseconds. */
  stalledTimeoutMs: number;
  /** The deadline of a unary call that names none, milliseconds. */
  unaryDeadlineMs: number;
  /** The longest deadline a unary call may name, milliseconds. */
  maxUnaryDeadlineMs: number;
  /** The longest deadline a stream may name, milliseconds. */
  maxStreamDeadlineMs: number;
  /** Open connections in all. */
  connections: number;
  /** Open connections of one address that have sent nothing yet. */
  silentConnectionsPerAddress: number;
  /** Concurrent streams of one HTTP/2 connection. */
  streamsPerConnection: number;
  /** Memory of one HTTP/2 connection, MiB. */
  connectionMemoryMiB: number;
  /** Stream resets an HTTP/2 connection may send at once. */
  streamResetBurst: number;
  /** Stream resets per second beyond the burst. */
  streamResetRate: number;
};

/** Right for one machine on the open internet. The connection's memory has to hold one message per direction and stream window. */
export const defaultHttpLimits: HttpLimits = {
  requestBytes: 1024 * 1024,
  responseBytes: 4 * 1024 * 1024,
  headerBytes: 16 * 1024,
  headersTimeoutMs: 10_000,
  bodyTimeoutMs: 30_000,
  idleTimeoutMs: 75_000,
  stalledTimeoutMs: 120_000,
  unaryDeadlineMs: 60_000,
  maxUnaryDeadlineMs: 300_000,
  maxStreamDeadlineMs: 24 * 60 * 60 * 1000,
  connections: 10_000,
  silentConnectionsPerAddress: 100,
  streamsPerConnection: 200,
  connectionMemoryMiB: 16,
  streamResetBurst: 1000,
  streamResetRate: 33,
};
