import type { Client } from "@connectrpc/connect";
import type { ChannelService } from "../gen/carrel/v1/channel_service_pb.ts";
import type { Event } from "../gen/carrel/v1/event_pb.ts";
import type { Session, SessionStatus } from "../gen/carrel/v1/session_pb.ts";
import type { SessionService } from "../gen/carrel/v1/session_service_pb.ts";

/** The largest page the server gives. */
const pageSize = 200;

export type AllSessionsOptions = {
  /** Only sessions of this status. Default: all. */
  status?: SessionStatus;
  signal?: AbortSignal;
};

/** Every session of the caller, newest first, page by page as it is read. */
export async function* allSessions(
  sessions: Client<typeof SessionService>,
  { status, signal }: AllSessionsOptions,
): AsyncGenerator<Session, void, undefined> {
  let cursor = "";
  do {
    const page = await sessions.listSessions(
      { cursor, limit: pageSize, ...(status === undefined ? {} : { status }) },
      signal ? { signal } : {},
    );
    yield* page.sessions;
    cursor = page.nextCursor;
  } while (cursor !== "");
}

export type AllEventsOptions = {
  /** Events after this one. Default 0: all. */
  afterSeq?: number;
  signal?: AbortSignal;
};

/** The log as it is now, oldest first, page by page as it is read. Does not wait for more; `watch` does. */
export async function* allEvents(
  channel: Client<typeof ChannelService>,
  sessionId: string,
  { afterSeq = 0, signal }: AllEventsOptions,
): AsyncGenerator<Event, void, undefined> {
  for (let cursor = afterSeq; ; ) {
    const page = await channel.listEvents({ sessionId, afterSeq: cursor, limit: pageSize }, signal ? { signal } : {});
    yield* page.events;
    const last = page.events.at(-1);
    if (!last || last.seq >= page.lastSeq) return;
    cursor = last.seq;
  }
}
