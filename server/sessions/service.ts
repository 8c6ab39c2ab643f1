import { create } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Kysely, Transaction } from "kysely";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Session } from "../../gen/carrel/v1/session_pb.ts";
import {
  type CreateSessionRequest,
  CreateSessionRequestSchema,
  type CreateSessionResponse,
  CreateSessionResponseSchema,
  type SessionService,
} from "../../gen/carrel/v1/session_service_pb.ts";
import type { Database } from "../db/database.ts";
import { notFound, refusal } from "../errors.ts";
import { newId } from "../ids.ts";
import type { Guard, Journal } from "../journal/journal.ts";
import { sealSettings } from "../journal/pinned.ts";
import { sealText } from "../journal/seal.ts";
import type { ProfileSettings } from "../journal/settings.ts";
import { acceptPrompt } from "../journal/turns.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { type Place, sessionMessage } from "./message.ts";
import { once } from "./request-ids.ts";
import { checkedName, pageSize, readCursor, writeCursor } from "./rules.ts";
import { countAlive, deleteEnded, findShown, insertSession, listSessions, lockOwner, type ShownSession } from "./store.ts";

export type SessionServiceDeps = {
  db: Kysely<Database>;
  journal: Journal;
  userVault(userId: string): Promise<UserVault>;
  userIdOf(context: HandlerContext): string;
  /** Asked inside the transaction: a second connection could be one that waits for this one. */
  hasCredential(tx: Transaction<Database>, userId: string): Promise<boolean>;
  /** What a new session is pinned to. Throws for a profile that is not there and for options that are wrong. */
  effectiveSettings(ownerId: string, request: CreateSessionRequest): Promise<{ profileId: string; settings: ProfileSettings }>;
  /** Asks the reconciler to look at a session now. */
  poke(sessionId: string): void;
  /** Tells the readers of session lists. */
  announce(ownerId: string, sessionId: string): void;
  concurrentSessions: number;
  /** The installation that will look after new sessions. */
  host: string;
  limitCreate(tx: Transaction<Database>, userId: string): Promise<void>;
  place: Place;
};

export function createSessionService(deps: SessionServiceDeps): ServiceImpl<typeof SessionService> {
  const owned = async (context: HandlerContext, sessionId: string): Promise<ShownSession> =>
    (await findShown(deps.db, deps.userIdOf(context), sessionId)) ?? absent();
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
        if (change.session.desired !== "end") change.set({ desired: "end", end_reason: "user_requested" });
      });
      deps.poke(request.sessionId);
      return { terminated: true };
    },
    async deleteSessionRecord(request, context) {
      const ownerId = deps.userIdOf(context);
      const deleted = await deps.db.transaction().execute((tx) => deleteEnded(tx, ownerId, request.sessionId));
      if (!deleted) {
        await owned(context, request.sessionId);
        throw refusal(ErrorReason.SESSION_NOT_ENDED, "terminate the session before deleting its record");
      }
      deps.announce(ownerId, request.sessionId);
      return { deleted: true };
    },
  };
}

async function createSession(deps: SessionServiceDeps, request: CreateSessionRequest, ownerId: string): Promise<CreateSessionResponse> {
  const effective = await deps.effectiveSettings(ownerId, request);
  const vault = await deps.userVault(ownerId);
  let published = () => {};
  const answer = await deps.db.transaction().execute((tx) => {
    const call = {
      ownerId,
      method: "CreateSession",
      requestId: request.requestId,
      vault,
      request: { schema: CreateSessionRequestSchema, message: request },
      response: CreateSessionResponseSchema,
    };
    return once(tx, call, async () => {
      await lockOwner(tx, ownerId);
      await admit(deps, tx, ownerId);
      await deps.limitCreate(tx, ownerId);
      const row = await insertSession(tx, newSession(request, effective, ownerId, vault, deps.host));
      const made = await deps.journal.changeWithin(tx, row, async (change) => {
        if (request.initialPrompt) await acceptPrompt(change, request.initialPrompt, "");
        return change.session;
      });
      published = made.published;
      return create(CreateSessionResponseSchema, { session: sessionMessage({ ...row, ...made.value }, vault, deps.place) });
    });
  });
  published();
  deps.poke(answer.session!.id);
  return answer;
}

async function admit(deps: SessionServiceDeps, tx: Transaction<Database>, ownerId: string): Promise<void> {
  if (!(await deps.hasCredential(tx, ownerId))) {
    throw refusal(
      ErrorReason.NO_CREDENTIALS,
      "no Anthropic credential is stored: add one with POST /v1/auth/claude/apikey or `carrel auth claude set-key`",
    );
  }
  const alive = await countAlive(tx, ownerId);
  const limit = deps.concurrentSessions;
  if (alive < limit) return;
  throw refusal(ErrorReason.SESSION_LIMIT, `${alive} sessions are alive and ${limit} are allowed: terminate one first`, {
    limit: String(limit),
    count: String(alive),
  });
}

type Effective = { profileId: string; settings: ProfileSettings };

function newSession(request: CreateSessionRequest, { profileId, settings }: Effective, ownerId: string, vault: UserVault, host: string) {
  const id = newId("ses");
  const { environment: _environment, mcpServers: _mcpServers, ...plain } = settings;
  return {
    ...plain,
    id,
    ownerId,
    profileId,
    host,
    name: request.name.trim(),
    initialPrompt: request.initialPrompt ? sealText(vault, id, "initial_prompt", request.initialPrompt) : null,
    settings: sealSettings(vault, id, settings),
  };
}

/** The one answer for "not yours" and "not there". */
export function ownedBy(ownerId: string): Guard {
  return (row) => (row?.owner_id === ownerId ? row : absent());
}

function absent(): never {
  throw notFound("session");
}
