// Tickets: what a browser opens a WebSocket with, which cannot carry the header that everybody else authenticates by.
import { randomBytes } from "node:crypto";
import type { Kysely } from "kysely";
import type { Database } from "../../db/database.ts";
import type { User } from "../principal.ts";
import { unauthenticated } from "../refusals.ts";
import { forgetExpiredTickets, insertTicket, takeTicket } from "./store.ts";

export type SocketTickets = {
  /** Makes a ticket for one person and one session, which must be theirs. */
  issue(user: User, sessionId: string): Promise<{ ticket: string; expiresAt: Date }>;
  /** Takes a ticket, and says for whom it was made. Rejects with UNAUTHENTICATED; a ticket shown for another session is used up. */
  redeem(ticket: string, sessionId: string): Promise<User>;
  /** Forgets expired tickets. To be called now and then, by any server. */
  sweep(): Promise<void>;
};

export type SocketTicketDeps = {
  db: Kysely<Database>;
  hashToken(token: string): Uint8Array;
  /** How long a ticket works, milliseconds. Default 30 s. */
  lifetimeMs?: number;
};

const prefix = "wst_";
/** Nothing with a dot, so that no ticket is ever taken for a person's token. */
const shape = /^wst_[\w-]{43}$/;

export function createSocketTickets({ db, hashToken, lifetimeMs = 30_000 }: SocketTicketDeps): SocketTickets {
  return {
    async issue(user, sessionId) {
      const ticket = prefix + randomBytes(32).toString("base64url");
      const expiresAt = await insertTicket(db, {
        hash: Buffer.from(hashToken(ticket)),
        session_id: sessionId,
        user_id: user.userId,
        email: user.email ?? null,
        token_expires_at: new Date(user.expiresAt),
        lifetimeMs,
      });
      return { ticket, expiresAt };
    },
    async redeem(ticket, sessionId) {
      if (!shape.test(ticket)) throw unauthenticated("bad_ticket");
      const row = await takeTicket(db, Buffer.from(hashToken(ticket)));
      if (row?.session_id !== sessionId) throw unauthenticated("bad_ticket");
      return {
        issuer: row.issuer,
        subject: row.subject,
        email: row.email ?? undefined,
        // A ticket is for talking to one's own session; it says nothing of what else its person may do.
        operator: false,
        expiresAt: row.token_expires_at.getTime(),
        userId: row.user_id,
      };
    },
    sweep: () => forgetExpiredTickets(db),
  };
}
