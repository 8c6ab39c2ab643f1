import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { Kysely } from "kysely";
import { type WatchEventsResponse, WatchEventsResponseSchema } from "../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Event } from "../../gen/carrel/v1/event_pb.ts";
import type { Database } from "../db/database.ts";
import { notFound, refusal } from "../errors.ts";
import type { UserVault } from "../vault/user-vault.ts";
import type { Feeds, Subscription } from "./feed.ts";
import { openEvent } from "./seal.ts";
import { findOwnedSession, listEventRows, type SessionRow } from "./store.ts";

/** Rows read at a time, bounded in bytes as well by the store. */
const pageRows = 200;
const keepAliveMs = 10_000;

export type WatchOptions = { ownerId: string; sessionId: string; afterSeq: number; includeDeltas: boolean; signal: AbortSignal };

export type JournalReader = {
  /** The caller's session, or the one answer for "not yours" and "not there". */
  session(ownerId: string, sessionId: string): Promise<SessionRow>;
  events(session: SessionRow, afterSeq: number, limit: number): Promise<Event[]>;
  /** The stream of design D4. Ends after `session_end`, or when `signal` aborts. */
  watch(options: WatchOptions): AsyncGenerator<WatchEventsResponse>;
};

export type JournalReaderDeps = { db: Kysely<Database>; userVault(userId: string): Promise<UserVault>; feeds: Feeds };

export function createJournalReader(deps: JournalReaderDeps): JournalReader {
  const session: JournalReader["session"] = async (ownerId, sessionId) => {
    const row = await findOwnedSession(deps.db, ownerId, sessionId);
    if (!row) throw notFound("session");
    return row;
  };
  const events: JournalReader["events"] = async (row, afterSeq, limit) => {
    const rows = await listEventRows(deps.db, row.id, afterSeq, limit);
    if (rows.length === 0) return [];
    const vault = await deps.userVault(row.owner_id);
    return rows.map((event) => openEvent(vault, event));
  };
  // One object for all readers of an event, so that it is encoded once for all of them.
  const shared = new WeakMap<Event, WatchEventsResponse>();
  const itemOf = (event: Event): WatchEventsResponse => {
    const made = shared.get(event) ?? item({ case: "event", value: event });
    shared.set(event, made);
    return made;
  };
  return { session, events, watch: (options) => watch(deps.feeds, { session, events, itemOf }, options) };
}

type Source = Pick<JournalReader, "session" | "events"> & { itemOf(event: Event): WatchEventsResponse };

async function* watch(feeds: Feeds, source: Source, options: WatchOptions): AsyncGenerator<WatchEventsResponse> {
  // Subscribed before the watermark is read: what commits in between is in the ring or rings the bell.
  const subscription = feeds.subscribe(options.sessionId);
  const wake = () => subscription.wake();
  options.signal.addEventListener("abort", wake, { once: true });
  try {
    const session = await source.session(options.ownerId, options.sessionId);
    if (options.afterSeq > session.last_seq) throw cursorAhead(options.afterSeq, session.last_seq);
    yield* follow(subscription, source, session, options);
    options.signal.throwIfAborted();
  } finally {
    options.signal.removeEventListener("abort", wake);
    subscription.close();
  }
}

async function* follow(
  subscription: Subscription,
  source: Source,
  session: SessionRow,
  { afterSeq, includeDeltas, signal }: WatchOptions,
): AsyncGenerator<WatchEventsResponse> {
  const watermark = session.last_seq;
  let cursor = afterSeq;
  let synced = false;
  let ended = session.state === "ended";
  // Whether the table may hold what the ring does not: at the start, after another process rang, and once in a while
  // in case its bell was missed.
  let behind = true;
  while (!signal.aborted) {
    if (!synced && cursor >= watermark) {
      synced = true;
      yield item({ case: "synced", value: { lastSeq: watermark } });
    }
    const live = subscription.after(cursor);
    behind ||= live === undefined;
    const events = live?.length ? live : behind ? await source.events(session, cursor, pageRows) : [];
    for (const event of events) {
      cursor = event.seq;
      yield source.itemOf(event);
      if (!synced && cursor >= watermark) break;
      if (event.payload?.kind.case === "sessionEnd") return;
    }
    if (events.length > 0) continue;
    if (ended) return;
    behind = false;
    const deltas = subscription.takeDeltas();
    if (includeDeltas) for (const delta of deltas) yield item({ case: "delta", value: delta });
    if (deltas.length > 0) continue;
    if ((await subscription.wait(keepAliveMs)) === "timeout") {
      behind = true;
      // Also finds that the session is gone: then the one answer for what is not there ends the stream.
      ended = (await source.session(session.owner_id, session.id)).state === "ended";
      yield item({ case: "keepAlive", value: {} });
    } else behind = subscription.takeStale();
  }
}

function item(value: NonNullable<MessageInitShape<typeof WatchEventsResponseSchema>["item"]>): WatchEventsResponse {
  return create(WatchEventsResponseSchema, { item: value });
}

function cursorAhead(afterSeq: number, lastSeq: number) {
  return refusal(ErrorReason.INVALID_CURSOR, `after_seq is ${afterSeq}, but the log ends at ${lastSeq}`, {
    after_seq: String(afterSeq),
    last_seq: String(lastSeq),
  });
}
