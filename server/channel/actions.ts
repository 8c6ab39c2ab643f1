import { create } from "@bufbuild/protobuf";
import type { Kysely, Transaction } from "kysely";
import {
  type AnswerApprovalRequest,
  type AnswerQuestionRequest,
  type InterruptRequest,
  type SendPromptRequest,
  SendPromptRequestSchema,
  type SendPromptResponse,
  SendPromptResponseSchema,
} from "../../gen/carrel/v1/channel_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { User } from "../identity/principal.ts";
import type { Guard, Journal } from "../journal/journal.ts";
import { lockSession } from "../journal/store.ts";
import { acceptPrompt } from "../journal/turns.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { type AnswerRules, answerApproval, answerQuestion } from "./answers.ts";

export type ChannelActionsDeps = {
  db: Kysely<Database>;
  journal: Journal;
  rules: AnswerRules;
  userVault(userId: string): Promise<UserVault>;
  /** The guard of what only a live session of the owner can do. */
  aliveOf(ownerId: string): Guard;
  /** Counts the prompt in its own transaction, or refuses it with RATE_LIMITED. */
  limitPrompt(tx: Transaction<Database>, sessionId: string): Promise<void>;
  once: typeof import("../sessions/request-ids.ts").once;
};

/** What a person can do to a live session, whichever surface the wish came through. Requests are validated before. */
export type ChannelActions = {
  sendPrompt(user: User, request: SendPromptRequest): Promise<SendPromptResponse>;
  interrupt(user: User, request: InterruptRequest): Promise<{ interrupted: boolean }>;
  answerApproval(user: User, request: AnswerApprovalRequest): Promise<{ pattern: string; seq: number }>;
  answerQuestion(user: User, request: AnswerQuestionRequest): Promise<{ seq: number }>;
};

export function createChannelActions(deps: ChannelActionsDeps): ChannelActions {
  const alive = (user: User): Guard => deps.aliveOf(user.userId);
  return {
    sendPrompt: (user, request) => sendPrompt(deps, user, request, alive(user)),
    async interrupt(user, request) {
      const interrupted = await deps.journal.change(request.sessionId, alive(user), (change) => {
        if (change.session.turn === 0) return false;
        change.command({ case: "interrupt", value: { turn: change.session.turn } });
        // Should the runner be lost before it obeys, the turn ends instead of being given to the next one.
        change.set({ turn_acted: true });
        return true;
      });
      return { interrupted };
    },
    answerApproval: (user, request) =>
      deps.journal.change(request.sessionId, alive(user), (change) => answerApproval(change, request, nameOf(user), deps.rules)),
    answerQuestion: (user, request) =>
      deps.journal.change(request.sessionId, alive(user), (change) => answerQuestion(change, request, nameOf(user))),
  };
}

async function sendPrompt(
  deps: ChannelActionsDeps,
  { userId }: User,
  request: SendPromptRequest,
  guard: Guard,
): Promise<SendPromptResponse> {
  const vault = await deps.userVault(userId);
  let published = () => {};
  const answer = await deps.db.transaction().execute((tx) => {
    const call = {
      ownerId: userId,
      method: "SendPrompt",
      requestId: request.requestId,
      vault,
      request: { schema: SendPromptRequestSchema, message: request },
      response: SendPromptResponseSchema,
    };
    return deps.once(tx, call, async () => {
      const session = guard(await lockSession(tx, request.sessionId));
      await deps.limitPrompt(tx, session.id);
      const made = await deps.journal.changeWithin(tx, session, (change) => acceptPrompt(change, request.text, request.requestId));
      published = made.published;
      return create(SendPromptResponseSchema, made.value);
    });
  });
  published();
  return answer;
}

/** Who answered, as people know each other. */
function nameOf(user: User): string {
  return user.email ?? user.subject;
}
