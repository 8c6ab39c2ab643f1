// People who leave: whoever does something for them in this process, or remembers something of them, is told at once.
import { randomUUID } from "node:crypto";
import type { Interceptor } from "@connectrpc/connect";
import type { Kysely } from "kysely";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Database } from "../db/database.ts";
import { type DatabaseListener, notify } from "../db/listen.ts";
import { reasonOf, refusal } from "../errors.ts";
import type { Log } from "../log.ts";
import { userKey } from "./principal.ts";
import type { FindUser } from "./user-directory.ts";

export type Departures = {
  /**
   * Aborts when `signal` does, or when this person leaves, then with NOT_REGISTERED as its reason: at once, or within 5 s where
   * the bell of another server was lost. `signal` must abort in the end.
   */
  until(userId: string, signal: AbortSignal): AbortSignal;
  /** Call it after the commit. Resolves when the other servers have been told, or could not be: then they find out by themselves. */
  announce(userId: string): Promise<void>;
  close(): Promise<void>;
};

export type DeparturesOptions = {
  db: Kysely<Database>;
  listener: DatabaseListener;
  log: Log;
  /** Drops what this process remembers of a person. */
  forget(userId: string): void;
  /** Which of these people have left. */
  findDeparted(userIds: string[]): Promise<string[]>;
  /** How often it is asked, for the bells that are lost. Default 5 s. */
  lookMs?: number;
};

const channel = "carrel_departures";

export async function createDepartures(options: DeparturesOptions): Promise<Departures> {
  const { db, listener, log, forget, findDeparted, lookMs = 5_000 } = options;
  const self = randomUUID();
  const open = new Map<string, Set<AbortController>>();
  let looking: Promise<void> | undefined;
  const leave = (userId: string): void => {
    for (const stream of open.get(userId) ?? []) stream.abort(departed());
    open.delete(userId);
    forget(userId);
  };
  const lookUp = async (): Promise<void> => {
    try {
      for (const userId of await findDeparted([...open.keys()])) leave(userId);
    } catch (error) {
      log.warn({ err: error }, "whether somebody has left could not be looked up");
    }
  };
  const look = (): void => {
    if (open.size === 0) return;
    looking ??= lookUp().finally(() => {
      looking = undefined;
    });
  };
  const stop = await listener.listen(channel, (payload) => {
    if (payload === undefined) return look();
    const [from, userId] = payload.split(" ");
    if (userId !== undefined && from !== self) leave(userId);
  });
  const timer = setInterval(look, lookMs);
  return {
    until(userId, signal) {
      const departure = new AbortController();
      const streams = open.get(userId) ?? new Set();
      open.set(userId, streams.add(departure));
      const done = (): void => {
        streams.delete(departure);
        if (streams.size === 0 && open.get(userId) === streams) open.delete(userId);
      };
      if (signal.aborted) done();
      else signal.addEventListener("abort", done, { once: true });
      return AbortSignal.any([signal, departure.signal]);
    },
    async announce(userId) {
      leave(userId);
      await notify(db, channel, `${self} ${userId}`).catch((error: Error) =>
        log.warn({ err: error }, "other servers could not be told that somebody has left"),
      );
    },
    async close() {
      clearInterval(timer);
      await stop();
      await looking;
    },
  };
}

function departed() {
  return refusal(ErrorReason.NOT_REGISTERED, "this account was closed");
}

/**
 * What fails unforeseen in a call of somebody whose account is gone by then failed because of that: its key no longer opens
 * anything and its rows are not there. For calls; streams end by `Departures.until`.
 */
export function createDepartureInterceptor(findUser: FindUser): Interceptor {
  return (next) => async (request) => {
    try {
      return await next(request);
    } catch (error) {
      const user = request.contextValues.get(userKey);
      if (!user || !isUnforeseen(error) || (await findUser(user.issuer, user.subject)) === user.userId) throw error;
      const told = departed();
      told.cause = error;
      throw told;
    }
  };
}

function isUnforeseen(error: unknown): boolean {
  return (reasonOf(error) ?? ErrorReason.INTERNAL) === ErrorReason.INTERNAL;
}
