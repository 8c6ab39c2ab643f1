/** What one WebSocket may cost, and how long it may be silent. */
export type SocketLimits = {
  /** Messages of a client in any span of one second. */
  messagesPerSecond: number;
  /** How long a client may go on being over that rate before it is closed, milliseconds. */
  floodMs: number;
  /** Largest message of a client, bytes. */
  messageBytes: number;
  /** How long a connection lives without a message, ping or pong of the client, milliseconds. */
  idleMs: number;
  /** How often the server pings, milliseconds. */
  pingMs: number;
  /** Largest `history` frame, bytes. One event larger than that still goes, in a frame of its own. */
  historyFrameBytes: number;
  /** What may wait in memory for a slow client, bytes, besides the one frame that goes next. */
  queueBytes: number;
  /** How long a client may take nothing at all of what waits for it, milliseconds. */
  stalledMs: number;
  /** How long a handshake may take to be decided, milliseconds. */
  handshakeMs: number;
  /** How long the other side may take to answer a close, milliseconds. */
  closeMs: number;
};

export const defaultSocketLimits: SocketLimits = {
  messagesPerSecond: 100,
  floodMs: 10_000,
  messageBytes: 1024 * 1024,
  idleMs: 60_000,
  pingMs: 30_000,
  historyFrameBytes: 1_000_000,
  queueBytes: 64 * 1024,
  stalledMs: 30_000,
  handshakeMs: 5_000,
  closeMs: 5_000,
};
