import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { timestampFromDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Kysely } from "kysely";
import {
  type ChannelService,
  type GetHistoryResponse,
  type QueuedPromptSchema,
  type WatchSessionsResponse,
  WatchSessionsResponseSchema,
} from "../../gen/carrel/v1/channel_service_pb.ts";
import { type Event, type Frame, FrameSchema } from "../../gen/carrel/v1/event_pb.ts";
import type { Session } from "../../gen/carrel/v1/session_pb.ts";
import type { Database } from "../db/database.ts";
import type { User } from "../identity/principal.ts";
import { openApproval, openQuestion } from "../journal/pauses.ts";
import type { JournalReader } from "../journal/reader.ts";
import { openEvent } from "../journal/seal.ts";
import { listOpenPauses, listQueuedPromptRows, type PauseRow, type SessionRow } from "../journal/store.ts";
import type { UserVault } from "../vault/user-vault.ts";
import type { ChannelActions } from "./actions.ts";
import type { ChangedSessions } from "./changed-sessions.ts";
import { frameOf } from "./frames.ts";
import { endingWell } from "./stream-end.ts";

export type ChannelServiceDeps = {
  db: Kysely<Database>;
  actions: ChannelActions;
  reader: JournalReader;
  changed: ChangedSessions;
  userVault(userId: string): Promise<UserVault>;
  userOf(context: HandlerContext): User;
  /** Counts the ticket against its limit and makes it, or refuses with RATE_LIMITED. */
  issueTicket(user: User, sessionId: string): Promise<{ ticket: string; expiresAt: Date }>;
  /** Aborts with the call, and when the caller's token has been expired for a minute. */
  streamSignal(context: HandlerContext): AbortSignal;
  /** How long an approval or a question of a one-shot session waits, milliseconds. */
  approvalTimeoutMs: number;
  /** How long the reader of a stream may take nothing at all, milliseconds. Default 30 s. */
  stalledMs?: number;
  sessionMessage(row: SessionRow, vault: UserVault): Session;
  listAliveOf(ownerId: string): Promise<SessionRow[]>;
  listOwned(ownerId: string, sessionIds: readonly string[]): Promise<SessionRow[]>;
};

const historyBytes = 4 * 1024 * 1024;
const keepAliveMs = 10_000;

export function createChannelService(deps: ChannelServiceDeps): ServiceImpl<typeof ChannelService> {
  const { actions, userOf, stalledMs = 30_000 } = deps;
  return {
    watchEvents: (request, context) =>
      endingWell(
        deps.reader.watch({
          ownerId: userOf(context).userId,
          sessionId: request.sessionId,
          afterSeq: request.afterSeq,
          includeDeltas: request.includeDeltas,
          signal: deps.streamSignal(context),
        }),
        { stalledMs, placeOf: ({ item }) => (item.case === "event" ? item.value.seq : undefined), from: request.afterSeq },
      ),
    watchSessions: (_request, context) =>
      endingWell(watchSessions(deps, userOf(context).userId, deps.streamSignal(context)), {
        stalledMs,
        placeOf: () => undefined,
        from: 0,
      }),
    async listEvents(request, context) {
      const session = await deps.reader.session(userOf(context).userId, request.sessionId);
      const events = await deps.reader.events(session, request.afterSeq, Math.min(request.limit || 50, 200));
      return { events, lastSeq: session.last_seq };
    },
    async getHistory(request, context) {
      const session = await deps.reader.session(userOf(context).userId, request.sessionId);
      return history(deps.reader, session, request.afterSeq, request.limit);
    },
    sendPrompt: (request, context) => actions.sendPrompt(userOf(context), request),
    async listQueuedPrompts(request, context) {
      const session = await deps.reader.session(userOf(context).userId, request.sessionId);
      return { prompts: await queuedPrompts(deps, session, request.afterSeq, Math.min(request.limit || 50, 200)) };
    },
    cancelPrompt: (request, context) => actions.cancelPrompt(userOf(context), request),
    interrupt: (request, context) => actions.interrupt(userOf(context), request),
    answerApproval: (request, context) => actions.answerApproval(userOf(context), request),
    answerQuestion: (request, context) => actions.answerQuestion(userOf(context), request),
    async listPending(request, context) {
      const session = await deps.reader.session(userOf(context).userId, request.sessionId);
      const pauses = await listOpenPauses(deps.db, session.id);
      const vault = await deps.userVault(session.owner_id);
      const about = (pause: PauseRow) => ({
        createdAt: timestampFromDate(pause.created_at),
        seq: pause.seq,
        ...(session.one_shot ? { expiresAt: timestampFromMs(pause.created_at.getTime() + deps.approvalTimeoutMs) } : {}),
      });
      return {
        approvals: pauses.filter(({ kind }) => kind === "approval").map((pause) => ({ ...openApproval(vault, pause), ...about(pause) })),
        questions: pauses.filter(({ kind }) => kind === "question").map((pause) => ({ ...openQuestion(vault, pause), ...about(pause) })),
      };
    },
    async createSocketTicket({ sessionId }, context) {
      const user = userOf(context);
      const session = await deps.reader.session(user.userId, sessionId);
      const { ticket, expiresAt } = await deps.issueTicket(user, session.id);
      return { ticket, expiresAt: timestampFromDate(expiresAt) };
    },
  };
}

async function queuedPrompts(
  { db, userVault }: ChannelServiceDeps,
  session: SessionRow,
  afterSeq: number,
  limit: number,
): Promise<MessageInitShape<typeof QueuedPromptSchema>[]> {
  const rows = await listQueuedPromptRows(db, session.id, afterSeq, limit);
  if (rows.length === 0) return [];
  const vault = await userVault(session.owner_id);
  return rows.map((row) => {
    const { seq, createdAt, payload } = openEvent(vault, row);
    const prompt = payload?.kind.case === "user" ? payload.kind.value : undefined;
    return { seq, text: prompt?.text ?? "", requestId: prompt?.requestId ?? "", ...(createdAt ? { createdAt } : {}) };
  });
}

/** Whole frames up to 4 MiB; the first always goes, so that a page is never empty before the end. */
async function history(
  reader: JournalReader,
  session: SessionRow,
  afterSeq: number,
  limit: number,
): Promise<Pick<GetHistoryResponse, "messages" | "complete">> {
  const messages: Frame[] = [];
  let bytes = 0;
  let cursor = afterSeq;
  for (;;) {
    const events: Event[] = await reader.events(session, cursor, limit > 0 ? Math.min(200, limit - messages.length) : 200);
    for (const event of events) {
      const frame = frameOf(session.id, event);
      const size = frame ? toBinary(FrameSchema, frame).length : 0;
      if (messages.length > 0 && bytes + size > historyBytes) return { messages, complete: false };
      bytes += size;
      cursor = event.seq;
      if (frame) messages.push(frame);
    }
    const reached = events.length === 0 || cursor >= session.last_seq;
    if (reached || (limit > 0 && messages.length >= limit)) return { messages, complete: reached };
  }
}

async function* watchSessions(deps: ChannelServiceDeps, ownerId: string, signal: AbortSignal): AsyncGenerator<WatchSessionsResponse> {
  const changes = deps.changed.subscribe(ownerId);
  const item = (value: NonNullable<MessageInitShape<typeof WatchSessionsResponseSchema>["item"]>) =>
    create(WatchSessionsResponseSchema, { item: value });
  const shown = new Set<string>();
  const show = async (row: SessionRow) => {
    shown.add(row.id);
    return item({ case: "session", value: deps.sessionMessage(row, await deps.userVault(ownerId)) });
  };
  try {
    for (const row of await deps.listAliveOf(ownerId)) yield await show(row);
    yield item({ case: "synced", value: { lastSeq: 0 } });
    while (!signal.aborted) {
      await changes.wait(keepAliveMs, signal);
      // Whatever was shown and is alive no more has ended or is gone: one more look at each tells which.
      const changed = changes.take() ?? [...shown, ...(await deps.listAliveOf(ownerId)).map(({ id }) => id)];
      const rows = await deps.listOwned(ownerId, changed);
      for (const row of rows) yield await show(row);
      for (const sessionId of new Set(changed).difference(new Set(rows.map(({ id }) => id)))) {
        shown.delete(sessionId);
        yield item({ case: "deletedSessionId", value: sessionId });
      }
      if (changed.length === 0 && !signal.aborted) yield item({ case: "keepAlive", value: {} });
    }
    signal.throwIfAborted();
  } finally {
    changes.close();
  }
}
