import type { ConnectRouter, Interceptor } from "@connectrpc/connect";
import { createValidateInterceptor } from "@connectrpc/validate";
import { pino } from "pino";
import { ChannelService } from "../../gen/carrel/v1/channel_service_pb.ts";
import { CredentialService } from "../../gen/carrel/v1/credential_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { RegistrationService } from "../../gen/carrel/v1/registration_service_pb.ts";
import { PermissionMode, SessionDetail, SessionStatus, UserState } from "../../gen/carrel/v1/session_pb.ts";
import { SessionService } from "../../gen/carrel/v1/session_service_pb.ts";
import { notFound, refusal, retryLater } from "../../server/errors.ts";
import { createHttpServer, type HttpServer, type HttpServerOptions } from "../../server/http/server.ts";

/** The services of the contract that the stub serves. */
const stubServices = [RegistrationService, CredentialService, SessionService, ChannelService];

/** A session id that the stub knows. */
export const knownId = `ses_${"1".repeat(32)}`;
/** One it does not know. */
export const otherId = `ses_${"0".repeat(32)}`;
/** Its GetSession never answers by itself and does not listen to its signal. */
export const stuckId = `ses_${"5".repeat(32)}`;
/** Its GetSession throws an error of no kind of ours. */
export const brokenId = `ses_${"b".repeat(32)}`;
/** Its SendPrompt is refused by a rate limit. */
export const busyId = `ses_${"c".repeat(32)}`;

/** The only token the stub takes. */
export const stubToken = "stub-token";

const session = {
  id: knownId,
  name: "first",
  status: SessionStatus.RUNNING,
  userState: UserState.WAITING,
  detail: SessionDetail.IDLE,
  createdAt: { seconds: 1_700_000_000n, nanos: 250_000_000 },
  permissionMode: PermissionMode.ACCEPT_EDITS,
};

const authenticate: Interceptor = (next) => (request) => {
  if (request.header.get("authorization") !== `Bearer ${stubToken}`)
    throw refusal(ErrorReason.UNAUTHENTICATED, "no valid token", { problem: "missing" });
  return next(request);
};

const never = new Promise<never>(() => {});

/** Registers tiny functions for the real services. */
function stubRoutes(router: ConnectRouter): void {
  router.service(RegistrationService, { register: () => ({ registered: true, registeredAt: session.createdAt }) });
  router.service(CredentialService, { setApiKey: () => ({ success: true, message: "stored" }) });
  router.service(SessionService, {
    createSession: (request) => ({
      session: {
        ...session,
        name: request.name,
        status: SessionStatus.STARTING,
        permissionMode: request.permissionMode,
        allowedTools: request.allowedTools,
        model: request.requestId,
      },
    }),
    listSessions: (request) => ({
      sessions: [{ ...session, numTurns: request.limit, status: request.status }],
      nextCursor: request.cursor,
    }),
    async getSession({ sessionId }) {
      if (sessionId === stuckId) return never;
      if (sessionId === brokenId) throw new Error("password=hunter2 at table users");
      if (sessionId !== knownId) throw notFound("session");
      return { session };
    },
    renameSession: ({ name }) => ({ session: { ...session, name } }),
    terminateSession: () => ({ terminated: true }),
  });
  router.service(ChannelService, {
    async *watchEvents({ sessionId, afterSeq }, { signal }) {
      if (sessionId !== knownId) throw notFound("session");
      for (let seq = afterSeq + 1; seq <= 3; seq++)
        yield {
          item: {
            case: "event",
            value: { seq, createdAt: session.createdAt, payload: { kind: { case: "user", value: { text: `prompt ${seq}` } } } },
          },
        };
      yield { item: { case: "synced", value: { lastSeq: 3 } } };
      if (afterSeq < 3) return;
      await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true }));
    },
    async *watchSessions(_, { signal }) {
      yield { item: { case: "session", value: session } };
      yield { item: { case: "synced", value: { lastSeq: 0 } } };
      await new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true }));
    },
    listEvents: () => ({
      events: [
        {
          seq: 1,
          createdAt: session.createdAt,
          payload: { kind: { case: "toolUse", value: { id: "t", name: "Bash", input: { command: "ls", deep: [1, null, { a: true }] } } } },
        },
      ],
      lastSeq: 1,
    }),
    sendPrompt({ sessionId, text }) {
      if (sessionId === busyId) throw retryLater(ErrorReason.RATE_LIMITED, "too many prompts", 7);
      return { seq: text.length };
    },
    answerApproval: ({ updatedInput, toolUseId }) => ({ pattern: `${toolUseId} ${JSON.stringify(updatedInput ?? null)}` }),
    answerQuestion: ({ answers }) => ({ seq: Object.keys(answers).length }),
  });
}

/** A stub server on a free port, its log lines and its address. */
export async function startStub(
  options: Partial<HttpServerOptions> = {},
): Promise<{ url: string; port: number; token: string; lines: Record<string, unknown>[]; server: HttpServer; close(): Promise<void> }> {
  const lines: Record<string, unknown>[] = [];
  const log = pino({ level: "info" }, { write: (line: string) => void lines.push(JSON.parse(line) as Record<string, unknown>) });
  const server = createHttpServer({
    services: stubServices,
    routes: stubRoutes,
    interceptors: [authenticate, createValidateInterceptor()],
    allowedOrigins: ["https://app.example"],
    log,
    ready: () => true,
    address: { host: "127.0.0.1", port: 0 },
    ...options,
  });
  const { port } = await server.listen();
  return {
    url: `${options.tls ? "https" : "http"}://127.0.0.1:${port}`,
    port,
    token: stubToken,
    lines,
    server,
    close: () => server.close(500),
  };
}
