import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Kysely } from "kysely";
import type { Database } from "./db/database.ts";
import { type DatabaseListener, notify } from "./db/listen.ts";
import type { Log } from "./log.ts";

/** Tells other control planes on the same database that a session changed. A bell carries no content and may be lost. */
export type Bell = { ring(sessionId: string, ownerId: string): void; close(): Promise<void> };

export type BellOptions = {
  db: Kysely<Database>;
  listener: DatabaseListener;
  log: Log;
  /** Rung by another process; undefined when bells may have been missed. */
  onRing(sessionId: string | undefined, ownerId: string | undefined): void;
};

const channel = "carrel_sessions";
/** A bell follows the one before it by this at the least: under load each carries many sessions, else it costs as much as an append. */
const paceMs = 5;
/** A NOTIFY payload must stay under 8,000 bytes. */
const sessionsPerNotify = 64;

export async function createBell({ db, listener, log, onRing }: BellOptions): Promise<Bell> {
  // One's own bell is not heard: the readers of this process were rung before it was sent.
  const self = randomUUID();
  const waiting = new Map<string, string>();
  let sending: Promise<void> | undefined;

  const stop = await listener.listen(channel, (payload) => {
    if (payload === undefined) return onRing(undefined, undefined);
    const [from, ...pairs] = payload.split(" ");
    if (from === self) return;
    for (const pair of pairs) onRing(...(pair.split("/") as [string, string]));
  });

  /** One statement at a time, the first at once; what rings meanwhile goes with the next. */
  const send = async (): Promise<void> => {
    while (waiting.size > 0) {
      const batch = [...waiting].slice(0, sessionsPerNotify);
      for (const [sessionId] of batch) waiting.delete(sessionId);
      await notify(db, channel, [self, ...batch.map((pair) => pair.join("/"))].join(" "));
      await sleep(paceMs);
    }
  };
  return {
    ring(sessionId, ownerId) {
      waiting.set(sessionId, ownerId);
      sending ??= send()
        .catch((error: Error) => log.warn({ error: error.message }, "other servers could not be told of a change"))
        .finally(() => {
          sending = undefined;
        });
    },
    async close() {
      await sending;
      await stop();
    },
  };
}
