import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import {
  type ChannelService,
  type GetHistoryResponse,
  type WatchEventsResponse,
  type WatchSessionsResponse,
  WatchSessionsResponseSchema,
} from "../../gen/carrel/v1/channel_service_pb.ts";
import { type Event, type Frame, FrameSchema } from "../../gen/carrel/v1/event_pb.ts";
import type { Session } from "../../gen/carrel/v1/session_pb.ts";
import type { User } from "../identity/principal.ts";
import type { JournalReader } from "../journal/reader.ts";
import type { SessionRow } from "../journal/store.ts";
import type { ChannelActions } from "./actions.ts";
import type { ChangedSessions } from "./changed-sessions.ts";
import { frameOf } from "./frames.ts";
import { createStreamEnd, type Deliver } from "./stream-end.ts";
import { pendingOf, queuedPromptsOf, type WaitingDeps } from "./waiting.ts";

export type ChannelServiceDeps = WaitingDeps & {
  actions: ChannelActions;
  reader: JournalReader;
  changed: ChangedSessions;
  userOf(context: HandlerContext): User;
  /** Counts the ticket against its limit and makes it, or refuses with RATE_LIMITED. */
  issueTicket(user: User, sessionId: string): Promise<{ ticket: string; expiresAt: Date }>;
  /** Aborts with the call, and when the caller's token has been expired for a minute. */
  streamSignal(context: HandlerContext): AbortSignal;
  /** How long the reader of a stream may take nothing at all, milliseconds. Default 30 s. */
  stalledMs?: number;
  /** A short way to the reader of the call, where it has one. */
  directWriter(context: HandlerContext): Deliver<WatchEventsResponse> | undefined;
  showAliveOf(ownerId: string): Promise<Session[]>;
  showOwned(ownerId: string, sessionIds: readonly string[]): Promise<Session[]>;
};

const historyBytes = 4 * 1024 * 1024;
const keepAliveMs = 10_000;

export function createChannelService(deps: ChannelServiceDeps): ServiceImpl<typeof ChannelService> {
  const { actions, userOf } = deps;
  const sessionOf = ({ sessionId }: { sessionId: string }, context: HandlerContext) =>
    deps.reader.session(userOf(context).userId, sessionId);
  return {
    ...createWatches(deps),
    async listEvents(request, context) {
      const session = await sessionOf(request, context);
      const events = await deps.reader.events(session, request.afterSeq, pageSize(request.limit));
      return { events, lastSeq: session.last_seq };
    },
    getHistory: async (request, context) => history(deps.reader, await sessionOf(request, context), request.afterSeq, request.limit),
    sendPrompt: (request, context) => actions.sendPrompt(userOf(context), request),
    async listQueuedPrompts(request, context) {
      const session = await sessionOf(request, context);
      return { prompts: await queuedPromptsOf(deps, session, request.afterSeq, pageSize(request.limit)) };
    },
    cancelPrompt: (request, context) => actions.cancelPrompt(userOf(context), request),
    interrupt: (request, context) => actions.interrupt(userOf(context), request),
    answerApproval: (request, context) => actions.answerApproval(userOf(context), request),
    answerQuestion: (request, context) => actions.answerQuestion(userOf(context), request),
    listPending: async (request, context) => pendingOf(deps, await sessionOf(request, context)),
    async createSocketTicket(request, context) {
      const session = await sessionOf(request, context);
      const { ticket, expiresAt } = await deps.issueTicket(userOf(context), session.id);
      return { ticket, expiresAt: timestampFromDate(expiresAt) };
    },
  };
}

function pageSize(limit: number): number {
  return Math.min(limit || 50, 200);
}

function createWatches(deps: ChannelServiceDeps): Pick<ServiceImpl<typeof ChannelService>, "watchEvents" | "watchSessions"> {
  const { reader, userOf, streamSignal, directWriter, stalledMs = 30_000 } = deps;
  return {
    watchEvents({ sessionId, afterSeq, includeDeltas }, context) {
      const placeOf = ({ item }: WatchEventsResponse) => (item.case === "event" ? item.value.seq : undefined);
      const end = createStreamEnd({ stalledMs, placeOf, from: afterSeq });
      const writer = directWriter(context);
      const options = { ownerId: userOf(context).userId, sessionId, afterSeq, includeDeltas, signal: streamSignal(context) };
      return end.of(reader.watch({ ...options, deliver: writer && end.past(writer) }));
    },
    watchSessions(_request, context) {
      const end = createStreamEnd<WatchSessionsResponse>({ stalledMs, placeOf: () => undefined, from: 0 });
      return end.of(watchSessions(deps, userOf(context).userId, streamSignal(context)));
    },
  };
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
  const show = (session: Session) => {
    shown.add(session.id);
    return item({ case: "session", value: session });
  };
  try {
    for (const session of await deps.showAliveOf(ownerId)) yield show(session);
    yield item({ case: "synced", value: { lastSeq: 0 } });
    while (!signal.aborted) {
      await changes.wait(keepAliveMs, signal);
      // Whatever was shown and is alive no more has ended or is gone: one more look at each tells which.
      const changed = changes.take() ?? [...shown, ...(await deps.showAliveOf(ownerId)).map(({ id }) => id)];
      const sessions = await deps.showOwned(ownerId, changed);
      for (const session of sessions) yield show(session);
      for (const sessionId of new Set(changed).difference(new Set(sessions.map(({ id }) => id)))) {
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
