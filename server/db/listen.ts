/**
 * The doorbell: Postgres NOTIFY, received on one connection of its own.
 *
 * A bell only says "look at the table"; it may be lost while the connection is down. So after every reconnection each
 * listener is rung once, and nobody has to know whether something was missed.
 */
import { type Kysely, sql } from "kysely";
import pg from "pg";
import { type DatabaseAddress, poolConfig } from "./connect.ts";
import type { Database } from "./database.ts";
import { isServerUnavailable } from "./failures.ts";
import type { DatabaseLog } from "./log.ts";

/** The payload of a bell, or undefined for the one after a reconnection: anything may have happened. Must not throw. */
export type OnNotify = (payload: string | undefined) => void;

export type DatabaseListener = {
  /** Resolves when the channel is heard (at once after the next reconnection, should the server be away). The answer stops it. */
  listen(channel: string, onNotify: OnNotify): Promise<() => Promise<void>>;
  close(): Promise<void>;
};

/** @param onLost as for `connectDatabase`. */
export type ListenerOptions = { connection: DatabaseAddress; log: DatabaseLog; onLost?: (error: Error) => void };

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 5_000;
/** A connection that died without a word (a pulled cable, a paused machine) is noticed by asking. */
const PROBE_INTERVAL_MS = 15_000;

/** Connects with the first `listen`, in the background when the server is away. */
export function createListener(options: ListenerOptions): DatabaseListener {
  const channels = new Map<string, Set<OnNotify>>();
  const connection = keepConnected(options, {
    onConnect: (client) => listenTo(client, channels.keys()),
    onReconnected: () => channels.forEach((listeners) => ring(listeners, undefined)),
    onNotification: (channel, payload) => ring(channels.get(channel), payload),
  });
  return {
    async listen(channel, onNotify) {
      const listeners = channels.get(channel) ?? new Set();
      channels.set(channel, listeners.add(onNotify));
      const client = await connection.ready();
      if (client !== undefined) await listenTo(client, [channel]).catch(leaveToReconnection);
      return async () => {
        listeners.delete(onNotify);
        if (listeners.size > 0 || channels.get(channel) !== listeners) return;
        channels.delete(channel);
        const current = connection.current();
        await current?.query(`unlisten ${current.escapeIdentifier(channel)}`).catch(leaveToReconnection);
      };
    },
    close: connection.close,
  };
}

async function listenTo(client: pg.Client, channels: Iterable<string>): Promise<void> {
  for (const channel of channels) await client.query(`listen ${client.escapeIdentifier(channel)}`);
}

/** A connection that breaks meanwhile is made anew and then hears exactly the channels of the map. */
function leaveToReconnection(error: unknown): void {
  if (!isServerUnavailable(error)) throw error;
}

type ConnectionEvents = {
  /** Before the connection counts as made. */
  onConnect(client: pg.Client): Promise<void>;
  /** After a connection that followed a lost or refused one. */
  onReconnected(): void;
  onNotification(channel: string, payload: string): void;
};

type KeptConnection = {
  current(): pg.Client | undefined;
  /** After the attempt under way, or the first one; undefined while the server is away. */
  ready(): Promise<pg.Client | undefined>;
  close(): Promise<void>;
};

/** One connection, made anew with growing, jittered pauses whenever it breaks. */
function keepConnected(options: ListenerOptions, events: ConnectionEvents): KeptConnection {
  let client: pg.Client | undefined;
  let attempt: Promise<void> | undefined;
  let pause: NodeJS.Timeout | undefined;
  let failures = 0;
  let closed = false;

  const connect = (): Promise<void> => {
    attempt ??= tryOnce().finally(() => {
      attempt = undefined;
    });
    return attempt;
  };
  const tryOnce = async (): Promise<void> => {
    try {
      const opened = await openClient(options, events, lose);
      if (closed) return opened.end();
      client = opened;
      if (failures > 0) events.onReconnected();
      failures = 0;
    } catch (error) {
      retryLater(error as Error);
    }
  };
  const lose = (lost: pg.Client, error: Error): void => {
    if (client !== lost) return;
    client = undefined;
    endQuietly(lost, options.log);
    retryLater(error);
  };
  const retryLater = (error: Error): void => {
    if (closed) return;
    options.log.warn({ error: error.message, failures }, "database notifications interrupted");
    options.onLost?.(error);
    const ceiling = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** failures++);
    pause = setTimeout(() => void connect(), ceiling * (0.5 + Math.random() / 2));
  };
  const probing = setInterval(() => {
    const probed = client;
    probed?.query("select 1").catch((error: Error) => lose(probed, error));
  }, PROBE_INTERVAL_MS).unref();

  return {
    current: () => client,
    async ready() {
      if (client === undefined && (attempt !== undefined || failures === 0)) await connect();
      return client;
    },
    async close() {
      closed = true;
      clearInterval(probing);
      clearTimeout(pause);
      await attempt;
      const last = client;
      client = undefined;
      await last?.end();
    },
  };
}

async function openClient(
  options: ListenerOptions,
  events: ConnectionEvents,
  onLost: (client: pg.Client, error: Error) => void,
): Promise<pg.Client> {
  const limits = { keepAlive: true, connectionTimeoutMillis: 5_000, query_timeout: 5_000 };
  const client = new pg.Client({ ...poolConfig(options.connection), ...limits });
  client.on("error", (error) => onLost(client, error));
  client.on("end", () => onLost(client, new Error("the connection ended")));
  client.on("notification", ({ channel, payload }) => events.onNotification(channel, payload ?? ""));
  try {
    await client.connect();
    await events.onConnect(client);
    return client;
  } catch (error) {
    endQuietly(client, options.log);
    throw error;
  }
}

/** Nobody waits for a broken connection to close. */
function endQuietly(client: pg.Client, log: DatabaseLog): void {
  client.end().catch((error: Error) => log.debug({ error: error.message }, "broken database connection did not close"));
}

function ring(listeners: Set<OnNotify> | undefined, payload: string | undefined): void {
  for (const listener of listeners ?? []) listener(payload);
}

/** Rings a channel, after commit when `db` is a transaction. The payload is at most 7999 bytes and no place for secrets. */
export async function notify(db: Kysely<Database>, channel: string, payload = ""): Promise<void> {
  await sql`select pg_notify(${channel}, ${payload})`.execute(db);
}
