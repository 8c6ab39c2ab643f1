import type { Delta, Event } from "../../gen/carrel/v1/event_pb.ts";

/** Recent events of a watched session kept in memory for its readers, in number and in bytes. A reader behind them reads the table. */
const ringLength = 256;
const ringBytes = 256 * 1024;
/** Delta text kept for one reader, in UTF-16 code units. What does not fit is lost to that reader, never an event. */
const deltaBudget = 64 * 1024;
/** Blocks whose event is out: late deltas of them are dropped. */
const finishedBlocks = 64;

/** One reader's view of a session's live feed. Holds a cursor's worth of state: nothing is queued but deltas. */
export type Subscription = {
  /**
   * Events right after `cursor` that are in memory; undefined when some may be missing and the table must be read. Readers at
   * the same place are given the same array.
   */
  after(cursor: number): readonly Event[] | undefined;
  takeDeltas(): Delta[];
  /** Resolves when something may be new, or after `milliseconds`. */
  wait(milliseconds: number): Promise<"rung" | "timeout">;
  /** True once after another process rang: the table holds what the ring does not. */
  takeStale(): boolean;
  /** Wakes `wait`. */
  wake(): void;
  close(): void;
};

/** An event and about how many bytes it holds. */
export type Sized = { event: Event; bytes: number };

export type Feeds = {
  subscribe(sessionId: string): Subscription;
  /** Events this process has just committed, in order. */
  publish(sessionId: string, events: readonly Sized[]): void;
  pushDeltas(sessionId: string, deltas: readonly Delta[]): void;
  /** Another process committed something, or may have: `undefined` rings every feed. */
  ring(sessionId: string | undefined): void;
  /** Sessions watched here, for tests and metrics. */
  readonly size: number;
};

/** `next` is where the piece begins that this reader needs next, of each block under way. */
type Reader = {
  deltas: Delta[];
  budget: number;
  next: Map<string, number>;
  rung: boolean;
  stale: boolean;
  resolve: (() => void) | undefined;
};
type Feed = {
  ring: Sized[];
  bytes: number;
  /** Number of the newest event seen here; 0 before the first. */
  newest: number;
  /** What was last read of the ring: readers of one session are mostly at one place. */
  run: { cursor: number; events: readonly Event[] } | undefined;
  finished: string[];
  readers: Set<Reader>;
};

/** The doorbell and short memory between those who append and those who watch, one per process. */
export function createFeeds(): Feeds {
  const feeds = new Map<string, Feed>();
  return {
    subscribe(sessionId) {
      const feed = feeds.get(sessionId) ?? { ring: [], bytes: 0, newest: 0, run: undefined, finished: [], readers: new Set() };
      feeds.set(sessionId, feed);
      const reader: Reader = { deltas: [], budget: deltaBudget, next: new Map(), rung: false, stale: false, resolve: undefined };
      feed.readers.add(reader);
      return subscription(feed, reader, () => {
        feed.readers.delete(reader);
        if (feed.readers.size === 0) feeds.delete(sessionId);
      });
    },
    publish(sessionId, events) {
      const feed = feeds.get(sessionId);
      if (!feed || events.length === 0) return;
      for (const sized of events) remember(feed, sized);
      for (const reader of feed.readers) ring(reader);
    },
    pushDeltas(sessionId, deltas) {
      const feed = feeds.get(sessionId);
      if (!feed) return;
      const fresh = deltas.filter((delta) => !feed.finished.includes(delta.blockId));
      if (fresh.length === 0) return;
      for (const reader of feed.readers) offer(reader, fresh);
    },
    ring(sessionId) {
      const rung = sessionId === undefined ? feeds.values() : [feeds.get(sessionId)];
      for (const feed of rung) for (const reader of feed?.readers ?? []) ring(Object.assign(reader, { stale: true }));
    },
    get size() {
      return feeds.size;
    },
  };
}

function subscription(feed: Feed, reader: Reader, close: () => void): Subscription {
  return {
    after(cursor) {
      if (cursor >= feed.newest) return [];
      const first = feed.ring[0]?.event.seq ?? feed.newest + 1;
      if (cursor + 1 < first) return undefined;
      if (feed.run?.cursor !== cursor) feed.run = { cursor, events: feed.ring.slice(cursor + 1 - first).map(({ event }) => event) };
      return feed.run.events;
    },
    takeDeltas() {
      const taken = reader.deltas;
      reader.deltas = [];
      reader.budget = deltaBudget;
      return taken;
    },
    async wait(milliseconds) {
      if (!reader.rung && !(await rungWithin(reader, milliseconds))) return "timeout";
      reader.rung = false;
      return "rung";
    },
    takeStale() {
      const stale = reader.stale;
      reader.stale = false;
      return stale;
    },
    wake: () => ring(reader),
    close,
  };
}

function rungWithin(reader: Reader, milliseconds: number): Promise<boolean> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => settle(false), milliseconds);
    const settle = (rung: boolean) => {
      clearTimeout(timer);
      reader.resolve = undefined;
      resolve(rung);
    };
    reader.resolve = () => settle(true);
  });
}

function ring(reader: Reader): void {
  reader.rung = true;
  reader.resolve?.();
}

/** The ring stays contiguous: events of another process leave a hole here, and what follows starts it anew. */
function remember(feed: Feed, sized: Sized): void {
  const { event } = sized;
  if (event.seq <= feed.newest) return;
  if (event.seq !== feed.newest + 1) forget(feed, feed.ring.length);
  feed.newest = event.seq;
  feed.run = undefined;
  feed.ring.push(sized);
  feed.bytes += sized.bytes;
  while (feed.ring.length > ringLength || feed.bytes > ringBytes) forget(feed, 1);
  const blockId = blockOf(event);
  if (!blockId) return;
  feed.finished.push(blockId);
  if (feed.finished.length > finishedBlocks) feed.finished.shift();
  for (const reader of feed.readers) {
    reader.deltas = reader.deltas.filter((delta) => delta.blockId !== blockId);
    reader.next.delete(blockId);
  }
}

function forget(feed: Feed, count: number): void {
  for (const { bytes } of feed.ring.splice(0, count)) feed.bytes -= bytes;
}

function blockOf(event: Event): string | undefined {
  const kind = event.payload?.kind;
  return kind?.case === "assistant" || kind?.case === "toolUse" ? kind.value.blockId : undefined;
}

/**
 * What a reader is shown of a block is always a prefix of it: after one lost piece, here or on the way from the runner, the
 * rest of that block is lost too, and who comes in the middle of a block sees nothing of it but its event.
 */
function offer(reader: Reader, deltas: readonly Delta[]): void {
  for (const delta of deltas) {
    const { blockId, offset, text } = delta;
    if (offset !== (reader.next.get(blockId) ?? 0) || text.length > reader.budget) continue;
    if (reader.next.size >= finishedBlocks && !reader.next.has(blockId)) reader.next.clear();
    reader.next.set(blockId, offset + text.length);
    reader.budget -= text.length;
    reader.deltas.push(delta);
  }
  ring(reader);
}
