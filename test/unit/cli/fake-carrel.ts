/** A small server of the public contract for tests of the command line: real services, real sockets, no database, no agent. */
import { create } from "@bufbuild/protobuf";
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import { type AnswerApprovalRequest, ChannelService } from "../../../gen/carrel/v1/channel_service_pb.ts";
import { CredentialType } from "../../../gen/carrel/v1/credential_pb.ts";
import { CredentialService } from "../../../gen/carrel/v1/credential_service_pb.ts";
import { RegistrationService } from "../../../gen/carrel/v1/registration_service_pb.ts";
import { EndReason, PermissionMode, SessionDetail, SessionSchema, SessionStatus, UserState } from "../../../gen/carrel/v1/session_pb.ts";
import { type CreateSessionRequest, SessionService } from "../../../gen/carrel/v1/session_service_pb.ts";
import { serve } from "../sdk/serve.ts";
import { createFakeSession, type FakeSession } from "./fake-session.ts";
import { refused } from "./refused.ts";
import { playPrompt } from "./scripts.ts";

export const goodToken = "good-token";

export type FakeOptions = { demo?: boolean; hasKey?: boolean; isRegistered?: boolean };
export type FakeCarrel = Awaited<ReturnType<typeof startFakeCarrel>>;

export async function startFakeCarrel({ demo = false, hasKey = true, isRegistered = true }: FakeOptions = {}) {
  const sessions = new Map<string, FakeSession>();
  const state = {
    apiKey: hasKey ? "sk-ant-old" : "",
    isRegistered,
    approvals: [] as AnswerApprovalRequest[],
    answers: [] as Record<string, string>[],
    created: [] as CreateSessionRequest[],
  };

  function signedIn({ requestHeader }: HandlerContext): void {
    if (requestHeader.get("authorization") !== `Bearer ${goodToken}`)
      throw refused("UNAUTHENTICATED", "the token has expired", { problem: "expired" });
  }
  function member(context: HandlerContext): void {
    signedIn(context);
    if (!state.isRegistered) throw refused("NOT_REGISTERED", "not registered here");
  }
  function find(id: string, context: HandlerContext): FakeSession {
    member(context);
    const found = sessions.get(id);
    if (!found) throw refused("NOT_FOUND", "session not found", { resource: "session" });
    return found;
  }
  function createSession(request: CreateSessionRequest, context: HandlerContext) {
    member(context);
    state.created.push(request);
    const { name, model, initialPrompt, allowedTools, deniedTools } = request;
    const session = create(SessionSchema, {
      id: `ses_${(sessions.size + 1).toString(16).padStart(32, "0")}`,
      status: SessionStatus.RUNNING,
      userState: UserState.WAITING,
      detail: SessionDetail.IDLE,
      createdAt: { seconds: BigInt(1_800_000_000 + sessions.size) },
      permissionMode: request.permissionMode || PermissionMode.ACCEPT_EDITS,
      region: "local",
      name,
      model,
      initialPrompt,
      allowedTools,
      deniedTools,
      demo,
    });
    const fake = createFakeSession(session, playPrompt);
    sessions.set(session.id, fake);
    fake.append(
      { case: "sessionStatus", value: { status: SessionStatus.RUNNING, userState: UserState.WAITING, detail: SessionDetail.IDLE } },
      0,
    );
    if (initialPrompt) fake.prompt(initialPrompt);
    return { session };
  }
  function listSessions(status: SessionStatus, limit: number, cursor: string) {
    const all = [...sessions.values()]
      .map(({ session }) => session)
      .filter((session) => status === 0 || session.status === status)
      .reverse();
    const from = Number(cursor || "0");
    const to = from + (limit || 50);
    return { sessions: all.slice(from, to), nextCursor: to < all.length ? String(to) : "" };
  }

  const served = await serve((router: ConnectRouter) => {
    router.service(RegistrationService, {
      register(_request, context) {
        signedIn(context);
        state.isRegistered = true;
        return { registered: true };
      },
      deregister(_request, context) {
        signedIn(context);
        state.isRegistered = false;
        return { deregistered: true };
      },
    });
    router.service(CredentialService, {
      setApiKey({ apiKey }, context) {
        member(context);
        if (!apiKey.startsWith("sk-ant-")) throw refused("INVALID_ARGUMENT", "api_key: must start with sk-ant-");
        state.apiKey = apiKey;
        return { success: true, message: "API key stored" };
      },
      getCredentialStatus(_request, context) {
        member(context);
        return state.apiKey ? { hasCredentials: true, credentialType: CredentialType.API_KEY, createdAt: { seconds: 1_800_000_000n } } : {};
      },
      deleteCredential(_request, context) {
        member(context);
        state.apiKey = "";
        return { success: true };
      },
    });
    router.service(SessionService, {
      createSession,
      listSessions({ status, limit, cursor }, context) {
        member(context);
        return listSessions(status, limit, cursor);
      },
      getSession: ({ sessionId }, context) => ({ session: find(sessionId, context).session }),
      renameSession({ sessionId, name }, context) {
        const { session } = find(sessionId, context);
        session.name = name;
        return { session };
      },
      terminateSession({ sessionId }, context) {
        find(sessionId, context).end(EndReason.USER_REQUESTED);
        return { terminated: true };
      },
      deleteSessionRecord({ sessionId }, context) {
        if (find(sessionId, context).session.status !== SessionStatus.ENDED)
          throw refused("SESSION_NOT_ENDED", "the session has not ended");
        sessions.delete(sessionId);
        return { deleted: true };
      },
    });
    router.service(ChannelService, {
      async *watchEvents({ sessionId, afterSeq, includeDeltas }, context) {
        yield* find(sessionId, context).watch(afterSeq, includeDeltas, context.signal);
      },
      listEvents({ sessionId, afterSeq }, context) {
        const { log } = find(sessionId, context);
        return { events: log.slice(afterSeq, afterSeq + 3), lastSeq: log.length };
      },
      sendPrompt: ({ sessionId, text, requestId }, context) => find(sessionId, context).prompt(text, requestId),
      interrupt: ({ sessionId }, context) => ({ interrupted: find(sessionId, context).interrupt() }),
      answerApproval(request, context) {
        state.approvals.push(request);
        find(request.sessionId, context).answerApproval(request);
        return { pattern: request.approvalScope === 2 ? "Bash(ls:*)" : "" };
      },
      answerQuestion({ sessionId, questionId, answers }, context) {
        state.answers.push(answers);
        find(sessionId, context).answerQuestion(questionId, answers);
        return {};
      },
      listPending: ({ sessionId }, context) => {
        const open = find(sessionId, context).log.flatMap(({ payload }) =>
          payload?.kind.case === "toolApprovalRequest" ? [payload.kind.value] : [],
        );
        return { approvals: open };
      },
    });
  });
  return { ...served, state, sessions };
}
