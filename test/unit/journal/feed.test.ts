import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Delta, DeltaSchema, EventSchema } from "../../../gen/carrel/v1/event_pb.ts";
import { createFeeds, type Sized } from "../../../server/journal/feed.ts";

const session = "ses_1";

function event(seq: number, options: { blockId?: string; bytes?: number } = {}): Sized {
  const kind = options.blockId
    ? { case: "assistant" as const, value: { blockId: options.blockId } }
    : { case: "system" as const, value: { message: String(seq) } };
  return { event: create(EventSchema, { seq, payload: { kind } }), bytes: options.bytes ?? 100 };
}

function delta(blockId: string, offset: number, text: string): Delta {
  return create(DeltaSchema, { blockId, offset, text });
}

const seqs = (events: readonly { seq: number }[] | undefined) => events?.map(({ seq }) => seq);
const texts = (deltas: readonly Delta[]) => deltas.map(({ blockId, text }) => `${blockId}:${text}`);

describe("recent events", () => {
  test("are there for every cursor within them, and the table is asked for what was before", () => {
    const feeds = createFeeds();
    const reader = feeds.subscribe(session);
    expect(reader.after(0)).toEqual([]);
    feeds.publish(session, [event(5), event(6)]);
    feeds.publish(session, [event(7)]);
    expect([seqs(reader.after(4)), seqs(reader.after(5)), seqs(reader.after(7)), seqs(reader.after(9))]).toEqual([
      [5, 6, 7],
      [6, 7],
      [],
      [],
    ]);
    expect([reader.after(3), reader.after(0)]).toEqual([undefined, undefined]);
  });

  test("are one array for all readers at one place, until more comes", () => {
    const feeds = createFeeds();
    const [one, other] = [feeds.subscribe(session), feeds.subscribe(session)];
    feeds.publish(session, [event(1), event(2)]);
    const run = one.after(0);
    expect(other.after(0)).toBe(run);
    expect(seqs(other.after(1))).toEqual([2]);
    feeds.publish(session, [event(3)]);
    expect([seqs(run), seqs(one.after(0)), seqs(one.after(2))]).toEqual([[1, 2], [1, 2, 3], [3]]);
  });

  test("begin anew after a hole that another process left, and what comes late or twice is left out", () => {
    const feeds = createFeeds();
    const reader = feeds.subscribe(session);
    feeds.publish(session, [event(1), event(2)]);
    feeds.publish(session, [event(5)]);
    expect([reader.after(2), reader.after(3), seqs(reader.after(4))]).toEqual([undefined, undefined, [5]]);
    feeds.publish(session, [event(3), event(4)]);
    feeds.publish(session, [event(5), event(6)]);
    expect([reader.after(2), seqs(reader.after(4))]).toEqual([undefined, [5, 6]]);
  });

  test("are bounded in number and in bytes", () => {
    const feeds = createFeeds();
    const reader = feeds.subscribe(session);
    feeds.publish(
      session,
      Array.from({ length: 1_000 }, (_, index) => event(index + 1)),
    );
    expect([reader.after(1_000 - 257), seqs(reader.after(1_000 - 256))?.length]).toEqual([undefined, 256]);
    feeds.publish(session, [event(1_001, { bytes: 200 * 1024 }), event(1_002, { bytes: 200 * 1024 })]);
    expect([reader.after(1_000), seqs(reader.after(1_001))]).toEqual([undefined, [1_002]]);
    feeds.publish(session, [event(1_003, { bytes: 1024 * 1024 })]);
    expect([reader.after(1_002), reader.after(1_003)]).toEqual([undefined, []]);
  });

  test("whatever is published in whatever order, a reader that trusts the feed or reads the table sees each event once and in order", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.integer({ min: 1, max: 3 }), fc.boolean(), fc.boolean()), { maxLength: 60 }), (steps) => {
        const feeds = createFeeds();
        const reader = feeds.subscribe(session);
        const table: number[] = [];
        const seen: number[] = [];
        let late: Sized[] = [];
        for (const [count, here, reads] of steps) {
          const batch = Array.from({ length: count }, () => event(table.push(table.length + 1)));
          // Either another process commits it and only rings, or this one publishes it, perhaps after its successor.
          if (!here) feeds.ring(session);
          else if (reads) {
            feeds.publish(session, batch);
            feeds.publish(session, late);
            late = [];
          } else late.push(...batch);
          if (!reads) continue;
          const live = reader.after(seen.length);
          const rest =
            live === undefined || (live.length === 0 && reader.takeStale()) ? table.slice(seen.length) : live.map(({ seq }) => seq);
          seen.push(...rest);
          expect(seen).toEqual(table.slice(0, seen.length));
        }
      }),
    );
  });
});

describe("deltas", () => {
  test("are a prefix of their block: what comes after a lost piece is lost, and who comes late sees none of it", () => {
    const feeds = createFeeds();
    const early = feeds.subscribe(session);
    feeds.pushDeltas(session, [delta("a", 0, "He"), delta("a", 2, "llo")]);
    const late = feeds.subscribe(session);
    feeds.pushDeltas(session, [delta("a", 5, "!"), delta("b", 0, "new")]);
    feeds.pushDeltas(session, [delta("a", 9, "after a hole"), delta("a", 6, "?"), delta("b", 0, "again")]);
    expect(texts(early.takeDeltas())).toEqual(["a:He", "a:llo", "a:!", "b:new", "a:?"]);
    expect(texts(late.takeDeltas())).toEqual(["b:new"]);
  });

  test("stop where a slow reader's budget ends and go on with the next block once it has read", () => {
    const feeds = createFeeds();
    const reader = feeds.subscribe(session);
    const piece = "x".repeat(40 * 1024);
    feeds.pushDeltas(session, [delta("a", 0, piece), delta("a", piece.length, piece), delta("a", 2 * piece.length, "tail")]);
    expect(reader.takeDeltas().map(({ offset }) => offset)).toEqual([0]);
    feeds.pushDeltas(session, [delta("a", 2 * piece.length + 4, "more"), delta("b", 0, piece)]);
    expect(texts(reader.takeDeltas().map((one) => ({ ...one, text: String(one.text.length) })))).toEqual([`b:${piece.length}`]);
  });

  test("of a block whose event is out are dropped, those that wait and those that come late", () => {
    const feeds = createFeeds();
    const reader = feeds.subscribe(session);
    feeds.pushDeltas(session, [delta("a", 0, "gone"), delta("b", 0, "kept")]);
    feeds.publish(session, [event(1, { blockId: "a" })]);
    feeds.pushDeltas(session, [delta("a", 4, "late"), delta("a", 0, "late")]);
    expect(texts(reader.takeDeltas())).toEqual(["b:kept"]);
  });

  test("any pieces in any order, with pauses of any length, are shown as prefixes", () => {
    const piece = fc.record({
      block: fc.constantFrom("a", "b", "c"),
      skip: fc.integer({ min: 0, max: 3 }),
      size: fc.integer({ min: 1, max: 30_000 }),
      take: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 80 }), (pieces) => {
        const feeds = createFeeds();
        const reader = feeds.subscribe(session);
        const produced = new Map<string, number>();
        const shown = new Map<string, number>();
        const take = () => {
          for (const { blockId, offset, text } of reader.takeDeltas()) {
            expect(offset).toBe(shown.get(blockId) ?? 0);
            shown.set(blockId, offset + text.length);
          }
        };
        for (const { block, skip, size, take: now } of pieces) {
          const at = produced.get(block) ?? 0;
          produced.set(block, at + size);
          if (skip > 0) feeds.pushDeltas(session, [delta(block, at, "y".repeat(size))]);
          if (now) take();
        }
        take();
      }),
    );
  });
});

describe("a reader", () => {
  test("is woken by what is published, by deltas, by a ring, by itself, and by time", async () => {
    const feeds = createFeeds();
    const reader = feeds.subscribe(session);
    for (const ring of [
      () => feeds.publish(session, [event(1)]),
      () => feeds.pushDeltas(session, [delta("a", 0, "x")]),
      () => feeds.ring(session),
      () => feeds.ring(undefined),
      () => reader.wake(),
    ]) {
      const waiting = reader.wait(5_000);
      ring();
      expect(await waiting).toBe("rung");
    }
    expect(await reader.wait(5)).toBe("timeout");
    // What rang before it waited is not missed.
    feeds.ring(session);
    expect([await reader.wait(5_000), await reader.wait(5)]).toEqual(["rung", "timeout"]);
  });

  test("is told once that another process rang, and of other sessions nothing", async () => {
    const feeds = createFeeds();
    const [reader, other] = [feeds.subscribe(session), feeds.subscribe("ses_2")];
    feeds.ring(session);
    expect([reader.takeStale(), reader.takeStale(), other.takeStale(), await other.wait(5)]).toEqual([true, false, false, "timeout"]);
  });

  test("leaves nothing behind", () => {
    const feeds = createFeeds();
    const [one, two] = [feeds.subscribe(session), feeds.subscribe(session)];
    expect(feeds.size).toBe(1);
    one.close();
    two.close();
    expect(feeds.size).toBe(0);
    feeds.publish(session, [event(1)]);
    feeds.pushDeltas(session, [delta("a", 0, "x")]);
    expect(feeds.size).toBe(0);
  });
});
