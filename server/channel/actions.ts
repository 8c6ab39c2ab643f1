import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import type { Kysely, Transaction } from "kysely";
import {
  type AnswerApprovalRequest,
  AnswerApprovalRequestSchema,
  type AnswerApprovalResponse,
  AnswerApprovalResponseSchema,
  type AnswerQuestionRequest,
  AnswerQuestionRequestSchema,
  type AnswerQuestionResponse,
  AnswerQuestionResponseSchema,
  type CancelPromptRequest,
  CancelPromptRequestSchema,
  type CancelPromptResponse,
  CancelPromptResponseSchema,
  type InterruptRequest,
  type SendPromptRequest,
  SendPromptRequestSchema,
  type SendPromptResponse,
  SendPromptResponseSchema,
} from "../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Database } from "../db/database.ts";
import { holdAccount } from "../db/lock-order.ts";
import { notFound, refusal } from "../errors.ts";
import type { User } from "../identity/principal.ts";
import type { Change, Guard, Journal } from "../journal/journal.ts";
import { type LockedSession, lockSession, type Preceding } from "../journal/store.ts";
import { acceptPrompt, cancelPrompt, interruptTurn } from "../journal/turns.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { type AnswerRules, answerApproval, answerQuestion } from "./answers.ts";
import type { Answerer } from "./repeated-answers.ts";

export type ChannelActionsDeps = {
  db: Kysely<Database>;
  journal: Journal;
  rules: AnswerRules;
  userVault(userId: string): Promise<UserVault>;
  /** The guard of what only a live session of the owner can do. */
  aliveOf(ownerId: string): Guard;
  limiter: {
    /** Counts the prompt in its own transaction, or refuses it with RATE_LIMITED. */
    prompt(tx: Transaction<Database>, sessionId: string): Promise<void>;
    /** The same as queries that go before the change. */
    promptWithin(sessionId: string): { look: Preceding; take: Preceding };
  };
  requestIds: Pick<typeof import("../sessions/request-ids.ts"), "once" | "claimWithin">;
};

/** What a person can do to a live session, whichever surface the wish came through. Requests are validated before. */
export type ChannelActions = {
  sendPrompt(user: User, request: SendPromptRequest): Promise<SendPromptResponse>;
  cancelPrompt(user: User, request: CancelPromptRequest): Promise<CancelPromptResponse>;
  interrupt(user: User, request: InterruptRequest): Promise<{ interrupted: boolean }>;
  answerApproval(user: User, request: AnswerApprovalRequest): Promise<AnswerApprovalResponse>;
  answerQuestion(user: User, request: AnswerQuestionRequest): Promise<AnswerQuestionResponse>;
};

export function createChannelActions(deps: ChannelActionsDeps): ChannelActions {
  const change = createOnceChanger(deps);
  return {
    async sendPrompt(user, request) {
      const body = async (one: Change) => create(SendPromptResponseSchema, await acceptPrompt(one, request.text, request.requestId));
      const sent = await attemptPrompt(deps, user, request, body);
      return sent ?? change(user, prompting, request, { before: (tx, session) => deps.limiter.prompt(tx, session.id), body });
    },
    cancelPrompt: (user, request) => change(user, canceling, request, { body: (one) => takeBack(one, request.seq, user) }),
    async interrupt(user, request) {
      const interrupted = await deps.journal.change(request.sessionId, deps.aliveOf(user.userId), async (one) => {
        if (one.session.turn === 0) return false;
        await interruptTurn(one);
        return true;
      });
      return { interrupted };
    },
    answerApproval: (user, request) =>
      change(user, approving, request, { body: (one) => answerApproval(one, request, answererOf(user), deps.rules) }),
    answerQuestion: (user, request) => change(user, answering, request, { body: (one) => answerQuestion(one, request, answererOf(user)) }),
  };
}

const prompting = { method: "SendPrompt", request: SendPromptRequestSchema, response: SendPromptResponseSchema };
const canceling = { method: "CancelPrompt", request: CancelPromptRequestSchema, response: CancelPromptResponseSchema };
const approving = { method: "AnswerApproval", request: AnswerApprovalRequestSchema, response: AnswerApprovalResponseSchema };
const answering = { method: "AnswerQuestion", request: AnswerQuestionRequestSchema, response: AnswerQuestionResponseSchema };

type Call<Request extends DescMessage, Response extends DescMessage> = { method: string; request: Request; response: Response };

type Work<Response extends DescMessage> = {
  /** What else belongs into the transaction, before the change. */
  before?(tx: Transaction<Database>, session: LockedSession): Promise<void>;
  body(change: Change): Promise<MessageShape<Response>>;
};

/**
 * Sends a prompt in one statement, where nobody else has changed the session, nothing goes first, and neither limit nor
 * request id stand against it; undefined, and nothing done, where the lock is needed to tell.
 */
async function attemptPrompt(
  deps: ChannelActionsDeps,
  user: User,
  request: SendPromptRequest,
  body: (change: Change) => Promise<SendPromptResponse>,
): Promise<SendPromptResponse | undefined> {
  const call = await repeatable(deps, user, prompting, request);
  const { look, take } = deps.limiter.promptWithin(request.sessionId);
  const sent = await deps.journal.attempt(request.sessionId, deps.aliveOf(user.userId), body, (answer) =>
    request.requestId ? [look, deps.requestIds.claimWithin(call, answer), take] : [look, take],
  );
  return sent?.value;
}

async function repeatable<Request extends DescMessage, Response extends DescMessage>(
  deps: ChannelActionsDeps,
  { userId: ownerId }: User,
  { method, request: schema, response }: Call<Request, Response>,
  message: MessageShape<Request> & { requestId: string },
) {
  const vault = await deps.userVault(ownerId);
  return { ownerId, method, requestId: message.requestId, vault, request: { schema, message }, response };
}

/** Changes a live session of the caller, once for each request id. */
function createOnceChanger(deps: ChannelActionsDeps) {
  return async <Request extends DescMessage, Response extends DescMessage>(
    user: User,
    kind: Call<Request, Response>,
    message: MessageShape<Request> & { sessionId: string; requestId: string },
    { before, body }: Work<Response>,
  ): Promise<MessageShape<Response>> => {
    const call = await repeatable(deps, user, kind, message);
    let published = () => {};
    const answer = await deps.db.transaction().execute(async (tx) => {
      // The request id will refer to the account, and comes behind the session, as in one statement.
      await holdAccount(tx, user.userId);
      const locked = await lockSession(tx, message.sessionId);
      return deps.requestIds.once(tx, call, async () => {
        const session = deps.aliveOf(user.userId)(locked);
        await before?.(tx, session);
        const made = await deps.journal.changeWithin(tx, session, body);
        published = made.published;
        return made.value;
      });
    });
    published();
    return answer;
  };
}

async function takeBack(change: Change, promptSeq: number, user: User): Promise<CancelPromptResponse> {
  const canceled = await cancelPrompt(change, promptSeq, answererOf(user).name);
  if (canceled === "no_prompt") throw notFound("prompt");
  if (canceled === "started")
    throw refusal(ErrorReason.PROMPT_STARTED, "the turn of this prompt has begun, interrupt it instead", { seq: String(promptSeq) });
  return create(CancelPromptResponseSchema, canceled);
}

/** Who answered, as people know each other. */
function answererOf({ userId, email, subject }: User): Answerer {
  return { userId, name: email ?? subject };
}
