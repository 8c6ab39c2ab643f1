import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Session } from "../../gen/carrel/v1/session_pb.ts";
import type { SessionService } from "../../gen/carrel/v1/session_service_pb.ts";
import { notFound, refusal } from "../errors.ts";
import type { Guard } from "../journal/journal.ts";
import { isOccupied, wishToEnd, wishToRest } from "../journal/rules.ts";
import type { SessionCore } from "../journal/store.ts";
import { wake } from "../journal/turns.ts";
import { listSnapshots } from "../snapshots/store.ts";
import { type CreateDeps, createSession } from "./create.ts";
import { type ForkDeps, forkSession, preflightFork } from "./fork.ts";
import { sessionMessage } from "./message.ts";
import { checkedName, pageSize, readCursor, writeCursor } from "./rules.ts";
import { createShownSessions, deleteEnded, listSessions, type ShownSession } from "./store.ts";

export type SessionServiceDeps = CreateDeps &
  Omit<ForkDeps, keyof CreateDeps> & {
    userIdOf(context: HandlerContext): string;
    /** Tells the readers of session lists. */
    announce(ownerId: string, sessionId: string): void;
  };

export function createSessionService(deps: SessionServiceDeps): ServiceImpl<typeof SessionService> {
  const find = createShownSessions(deps.db);
  const owned = async (context: HandlerContext, sessionId: string): Promise<ShownSession> =>
    (await find(deps.userIdOf(context), sessionId)) ?? absent();
  const message = async (row: ShownSession): Promise<Session> => sessionMessage(row, await deps.userVault(row.owner_id), deps.place);

  return {
    createSession: (request, context) => createSession(deps, request, deps.userIdOf(context)),
    async listSessions(request, context) {
      const limit = pageSize(request.limit);
      const cursor = readCursor(request.cursor, request.status);
      const rows = await listSessions(deps.db, deps.userIdOf(context), request.status, cursor?.beforeId, limit + 1);
      const page = rows.slice(0, limit);
      const last = page.at(-1);
      return {
        sessions: await Promise.all(page.map(message)),
        nextCursor: rows.length > limit && last ? writeCursor({ beforeId: last.id, status: request.status }) : "",
      };
    },
    getSession: async (request, context) => ({ session: await message(await owned(context, request.sessionId)) }),
    async renameSession(request, context) {
      const name = checkedName(request.name);
      await deps.journal.change(request.sessionId, ownedBy(deps.userIdOf(context)), (change) => change.set({ name }));
      return { session: await message(await owned(context, request.sessionId)) };
    },
    async terminateSession(request, context) {
      await deps.journal.change(request.sessionId, ownedBy(deps.userIdOf(context)), (change) => {
        change.set(wishToEnd(change.session, "user_requested") ?? {});
      });
      deps.poke(request.sessionId);
      return { terminated: true };
    },
    async hibernateSession(request, context) {
      await deps.journal.change(request.sessionId, aliveOf(deps.userIdOf(context)), (change) => {
        refuseIfBusy(change.session);
        change.set(wishToRest(change.session));
      });
      return { session: await message(await owned(context, request.sessionId)) };
    },
    async resumeSession(request, context) {
      await deps.journal.change(request.sessionId, aliveOf(deps.userIdOf(context)), wake);
      return { session: await message(await owned(context, request.sessionId)) };
    },
    preflightFork: (request, context) => preflightFork(deps, request, deps.userIdOf(context)),
    forkSession: (request, context) => forkSession(deps, request, deps.userIdOf(context), context.signal),
    async deleteSessionRecord(request, context) {
      const ownerId = deps.userIdOf(context);
      const session = await owned(context, request.sessionId);
      if (session.state !== "ended") throw refusal(ErrorReason.SESSION_NOT_ENDED, "terminate the session before deleting its record");
      // What nobody could find any more goes first.
      for (const { archive } of await listSnapshots(deps.db, session.id)) await deps.archives.remove(archive);
      if (!(await deps.db.transaction().execute((tx) => deleteEnded(tx, ownerId, session.id)))) absent();
      deps.announce(ownerId, session.id);
      return { deleted: true };
    },
  };
}

/** The one answer for "not yours" and "not there". */
export function ownedBy(ownerId: string): Guard {
  return (row) => (row?.owner_id === ownerId ? row : absent());
}

/** The guard of what only a live session of the owner can do. */
export function aliveOf(ownerId: string): Guard {
  return (row) => {
    const session = ownedBy(ownerId)(row);
    if (session.state !== "ended" && session.desired !== "end") return session;
    throw refusal(ErrorReason.SESSION_ENDED, "the session has ended", { end_reason: session.end_reason ?? "" });
  };
}

function refuseIfBusy(session: SessionCore): void {
  const starts = session.state === "requested" || session.state === "starting";
  if (!starts && !isOccupied(session)) return;
  throw refusal(ErrorReason.SESSION_BUSY, "a session at work cannot be put away: wait for it, or interrupt it first");
}

function absent(): never {
  throw notFound("session");
}
