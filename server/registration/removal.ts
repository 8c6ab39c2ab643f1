import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import type { Log } from "../log.ts";
import { deleteAccount, doomSessionsOfClosed, listClosed } from "./store.ts";

export type RemovalOptions = { db: Kysely<Database>; log: Log; intervalMs: number };

export type Removal = {
  /** Looks soon: the last session of somebody may be gone. */
  poke(): void;
  close(): Promise<void>;
};

/**
 * Removes closed accounts once the reconcilers of all installations have erased their sessions. It remembers nothing and any
 * server may do it, so that whatever cuts it short, the next look goes on.
 */
export function createRemoval({ db, log, intervalMs }: RemovalOptions): Removal {
  let closed = false;
  let again = false;
  let looking: Promise<void> | undefined;

  const remove = async (userId: string): Promise<void> => {
    try {
      await deleteAccount(db, userId);
      log.info({ user_id: userId }, "nothing is left of a closed account");
    } catch (error) {
      log.warn({ user_id: userId, err: error }, "a closed account is not removed yet");
    }
  };
  const look = async (): Promise<void> => {
    do {
      again = false;
      try {
        await doomSessionsOfClosed(db);
        for (const userId of await listClosed(db)) if (!closed) await remove(userId);
      } catch (error) {
        log.warn({ err: error }, "closed accounts could not be read");
      }
    } while (again && !closed);
  };
  const poke = (): void => {
    if (closed) return;
    again = true;
    looking ??= look().finally(() => {
      looking = undefined;
    });
  };
  const timer = setInterval(poke, intervalMs);
  poke();
  return {
    poke,
    async close() {
      closed = true;
      clearInterval(timer);
      await looking;
    },
  };
}
