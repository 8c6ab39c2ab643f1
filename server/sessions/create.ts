// Making a session: what is counted, what is pinned, and its first prompt, in one transaction.
import { create } from "@bufbuild/protobuf";
import type { Kysely, Transaction } from "kysely";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import {
  type CreateSessionRequest,
  CreateSessionRequestSchema,
  type CreateSessionResponse,
  CreateSessionResponseSchema,
} from "../../gen/carrel/v1/session_service_pb.ts";
import type { Database } from "../db/database.ts";
import { refusal } from "../errors.ts";
import { newId } from "../ids.ts";
import type { Journal } from "../journal/journal.ts";
import { sealSettings } from "../journal/pinned.ts";
import { sealText } from "../journal/seal.ts";
import type { ProfileSettings } from "../journal/settings.ts";
import { acceptPrompt } from "../journal/turns.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { type Place, sessionMessage } from "./message.ts";
import { once } from "./request-ids.ts";
import { countAlive, insertSession, lockOwner } from "./store.ts";

/** What making a session needs. */
export type CreateDeps = {
  db: Kysely<Database>;
  journal: Journal;
  userVault(userId: string): Promise<UserVault>;
  /** Asked inside the transaction: a second connection could be one that waits for this one. */
  hasCredential(tx: Transaction<Database>, userId: string): Promise<boolean>;
  /** What a new session is pinned to. Throws for a profile that is not there and for options that are wrong. */
  effectiveSettings(ownerId: string, request: CreateSessionRequest): Promise<{ profileId: string; settings: ProfileSettings }>;
  /** Asks the reconciler to look at a session now. */
  poke(sessionId: string): void;
  concurrentSessions: number;
  /** The installation that will look after new sessions. */
  host: string;
  limitCreate(tx: Transaction<Database>, userId: string): Promise<void>;
  place: Place;
};

export async function createSession(deps: CreateDeps, request: CreateSessionRequest, ownerId: string): Promise<CreateSessionResponse> {
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
      await admit(deps, tx, ownerId, ErrorReason.SESSION_LIMIT);
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

/** Refuses who has no credential, and who has as many sessions as may be alive. Under the owner's lock. */
export async function admit(deps: CreateDeps, tx: Transaction<Database>, ownerId: string, overLimit: ErrorReason): Promise<void> {
  if (!(await deps.hasCredential(tx, ownerId))) {
    throw refusal(
      ErrorReason.NO_CREDENTIALS,
      "no Anthropic credential is stored: add one with POST /v1/auth/claude/apikey or `carrel auth claude set-key`",
    );
  }
  const alive = await countAlive(tx, ownerId);
  const limit = deps.concurrentSessions;
  if (alive < limit) return;
  throw refusal(overLimit, `${alive} sessions are alive and ${limit} are allowed: terminate one first`, {
    limit: String(limit),
    count: String(alive),
  });
}

export type Effective = { profileId: string; settings: ProfileSettings };

/** The row of a new session. */
export function newSession(
  request: Pick<CreateSessionRequest, "name" | "initialPrompt">,
  { profileId, settings }: Effective,
  ownerId: string,
  vault: UserVault,
  host: string,
) {
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
