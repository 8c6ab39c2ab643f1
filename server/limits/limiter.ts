import { hash } from "node:crypto";
import type { Kysely } from "kysely";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Database } from "../db/database.ts";
import { retryLater } from "../errors.ts";
import { forgetIdle, takeCall, takeCallWithin } from "./store.ts";

/** Calls in any minute: of one person, of one person, of one session, of one person. */
export type CallsPerMinute = { registrations: number; sessionCreates: number; prompts: number; tickets: number };

/**
 * The limits per minute of spec §1.2, and ours of tickets. Each takes one call, or refuses with RATE_LIMITED and the seconds to wait. Given the
 * transaction of the work itself, a call whose work fails is not counted.
 */
export type RateLimiter = {
  registration(db: Kysely<Database>, person: { issuer: string; subject: string }): Promise<void>;
  sessionCreate(db: Kysely<Database>, userId: string): Promise<void>;
  prompt(db: Kysely<Database>, sessionId: string): Promise<void>;
  /** The same as queries of the statement that changes the session, under the lock of its row. */
  promptWithin(sessionId: string): ReturnType<typeof takeCallWithin>;
  ticket(db: Kysely<Database>, userId: string): Promise<void>;
  /** Removes what no limit depends on any more. To be called now and then, by any server. */
  sweep(db: Kysely<Database>): Promise<void>;
};

const minuteMs = 60_000;

/** @param windowMs what a minute is; shorter in tests. */
export function createRateLimiter({ perMinute, windowMs = minuteMs }: { perMinute: CallsPerMinute; windowMs?: number }): RateLimiter {
  const take = async (db: Kysely<Database>, kind: string, subject: string, limit: number, what: string): Promise<void> => {
    const waitMs = await takeCall(db, { kind, subject, limit, windowMs });
    if (waitMs > 0) throw retryLater(ErrorReason.RATE_LIMITED, `more than ${limit} ${what} in a minute`, waitMs / 1000);
  };
  return {
    // Hashed, because an issuer may name people by anything, of any length.
    registration: (db, { issuer, subject }) =>
      take(db, "registration", hash("sha256", JSON.stringify([issuer, subject])), perMinute.registrations, "registrations"),
    sessionCreate: (db, userId) => take(db, "session_create", userId, perMinute.sessionCreates, "new sessions"),
    prompt: (db, sessionId) => take(db, "prompt", sessionId, perMinute.prompts, "prompts to a session"),
    promptWithin: (sessionId) => takeCallWithin({ kind: "prompt", subject: sessionId, limit: perMinute.prompts, windowMs }),
    ticket: (db, userId) => take(db, "ticket", userId, perMinute.tickets, "tickets"),
    sweep: (db) => forgetIdle(db, windowMs),
  };
}
