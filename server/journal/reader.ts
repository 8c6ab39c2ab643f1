import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { Kysely } from "kysely";
import { type WatchEventsResponse, WatchEventsResponseSchema } from "../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Delta, Event } from "../../gen/carrel/v1/event_pb.ts";
import type { Database } from "../db/database.ts";
import { notFound, refusal } from "../errors.ts";
import type { UserVault } from "../vault/user-vault.ts";
import type { Feeds, Subscription } from "./feed.ts";
import { openEvent } from "./seal.ts";
import { findOwnedSession, listEventRows, type SessionRow } from "./store.ts";

/** Rows read at a time, bounded in bytes as well by the store. */
const pageRows = 200;
const keepAliveMs = 10_000;

export type WatchOptions = {
  ownerId: string;
  sessionId: string;
  afterSeq: number;
  includeDeltas: boolean;
  signal: AbortSignal;
  /** A way to the reader that is shorter than being yielded. Resolves with what it left, from the first message it did not take on. */
  deliver?: Deliver | undefined;
};

type Items = readonly WatchEventsResponse[];
type Deliver = (items: Items) => Promise<Items> | Items;

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
  const itemsOf = createItems();
  return { session, events, watch: (options) => watch(deps.feeds, { session, events, itemsOf }, options) };
}

type Source = Pick<JournalReader, "session" | "events"> & { itemsOf(found: readonly (Event | Delta)[]): Items };

/** One object for all readers of an event, and one array for all of a run, so that they are encoded once for all of them. */
function createItems(): Source["itemsOf"] {
  const items = new WeakMap<Event | Delta, WatchEventsResponse>();
  const runs = new WeakMap<readonly (Event | Delta)[], Items>();
  return (found) =>
    remembered(runs, found, () =>
      found.map((one) => remembered(items, one, () => item("seq" in one ? { case: "event", value: one } : { case: "delta", value: one }))),
    );
}

function remembered<K extends object, V>(known: WeakMap<K, V>, key: K, make: () => V): V {
  const value = known.get(key) ?? make();
  known.set(key, value);
  return value;
}

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
  { afterSeq, includeDeltas, signal, deliver = (items) => items }: WatchOptions,
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
    const found = live?.length ? live : behind ? await source.events(session, cursor, pageRows) : [];
    const events = dueOf(found, synced ? Number.POSITIVE_INFINITY : watermark);
    const last = events.at(-1);
    if (last) {
      yield* send(source.itemsOf(events), deliver);
      cursor = last.seq;
      if (synced && isEnd(last)) return;
      continue;
    }
    if (ended) return;
    behind = false;
    const deltas = subscription.takeDeltas();
    if (includeDeltas) yield* send(source.itemsOf(deltas), deliver);
    if (deltas.length > 0) continue;
    if ((await subscription.wait(keepAliveMs)) === "timeout") {
      behind = true;
      // Also finds that the session is gone: then the one answer for what is not there ends the stream.
      ended = (await source.session(session.owner_id, session.id)).state === "ended";
      yield item({ case: "keepAlive", value: {} });
    } else behind = subscription.takeStale();
  }
}

/** The part of a run that comes before the reader is told that it is synced, and nothing after the end of the session. */
function dueOf(events: readonly Event[], watermark: number): readonly Event[] {
  const last = events.findIndex((event) => event.seq >= watermark || isEnd(event));
  return last < 0 || last === events.length - 1 ? events : events.slice(0, last + 1);
}

function isEnd(event: Event): boolean {
  return event.payload?.kind.case === "sessionEnd";
}

/** Yields what the shorter way does not take. */
async function* send(items: Items, deliver: Deliver): AsyncGenerator<WatchEventsResponse> {
  for (let left = items; left.length > 0; left = left.slice(1)) {
    left = await deliver(left);
    if (left[0]) yield left[0];
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
