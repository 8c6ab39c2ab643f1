import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { WatchEventsResponse } from "../../gen/carrel/v1/channel_service_pb.ts";
import { DeltaSchema } from "../../gen/carrel/v1/event_pb.ts";
import { createJournalCore, type JournalCore, said } from "../support/journal-core.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";

let database: TestDatabase;
let core: JournalCore;
beforeAll(async () => {
  database = await createTestDatabase();
  core = await createJournalCore(database);
});
afterAll(() => database.drop());

type Reader = { afterSeq?: number; takes?: (items: readonly WatchEventsResponse[]) => number; pauseMs?: number };

/** What a reader saw until it saw event `last`: numbers of events, the text of deltas, `synced`. By both ways, in order. */
async function see(sessionId: string, last: number, { afterSeq = 0, takes, pauseMs = 0 }: Reader): Promise<(number | string)[]> {
  const seen: (number | string)[] = [];
  const stopping = new AbortController();
  const record = ({ item }: WatchEventsResponse): void => {
    if (item.case === "event") seen.push(item.value.seq);
    if (item.case === "delta") seen.push(item.value.text);
    if (item.case === "synced") seen.push("synced");
    if (seen.includes(last)) stopping.abort();
  };
  const deliver = async (items: readonly WatchEventsResponse[]): Promise<readonly WatchEventsResponse[]> => {
    const count = Math.min(items.length, takes!(items));
    items.slice(0, count).forEach(record);
    await sleep(pauseMs);
    return items.slice(count);
  };
  const { ownerId } = core;
  const watched = core.reader.watch({
    ...{ ownerId, sessionId, afterSeq, includeDeltas: true, signal: stopping.signal },
    deliver: takes && deliver,
  });
  try {
    for await (const one of watched) record(one);
  } catch (error) {
    if (!stopping.signal.aborted) throw error;
  }
  return seen;
}

test("readers see one log, in order and whole, whichever way its events take and however slow they are", async () => {
  const sessionId = await core.openSession();
  const { client, epoch } = await core.attach(sessionId);
  let sent = 0;
  const append = async (count: number): Promise<void> => {
    const events = Array.from({ length: count }, (_, index) => said(`s${sent + index + 1}`));
    const { lastRunnerSeq } = await client.reportEvents({ sessionId, epoch, firstRunnerSeq: sent + 1, events });
    sent = lastRunnerSeq;
  };
  await append(30);
  const before = (await core.reader.session(core.ownerId, sessionId)).last_seq;
  const last = before + 8 * 7;
  let turn = 0;
  const readers: Reader[] = [
    {},
    { takes: (items) => items.length },
    { takes: () => 0 },
    { takes: () => (turn += 1) % 3 },
    { takes: (items) => items.length, pauseMs: 40 },
    { takes: () => 2, afterSeq: before - 5, pauseMs: 5 },
  ];
  const watching = Promise.all(readers.map((reader) => see(sessionId, last, reader)));
  while (core.feeds.size === 0) await sleep(5);
  await sleep(50);
  for (let batch = 0; batch < 8; batch += 1) {
    await append(7);
    await sleep(batch * 3);
  }
  const numbers = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, index) => from + index + 1);
  for (const [index, seen] of (await watching).entries()) {
    const from = readers[index]?.afterSeq ?? 0;
    // Where a reader is told that it has caught up depends on when it came.
    const synced = seen.indexOf("synced");
    expect(synced).toBeGreaterThanOrEqual(before - from);
    expect(seen.toSpliced(synced, 1)).toEqual(numbers(from, last));
  }
});

test("deltas take the same ways, and none comes after the event they were pieces of", async () => {
  const sessionId = await core.openSession();
  const { client, epoch } = await core.attach(sessionId);
  const before = (await core.reader.session(core.ownerId, sessionId)).last_seq;
  const readers: Reader[] = [{}, { takes: (items) => items.length }, { takes: () => 1 }];
  const watching = Promise.all(readers.map((reader) => see(sessionId, before + 1, { ...reader, afterSeq: before })));
  await sleep(100);
  for (const [offset, text] of ["a", "b", "c"].entries()) {
    core.feeds.pushDeltas(sessionId, [create(DeltaSchema, { blockId: "whole", offset, text })]);
    await sleep(10);
  }
  await client.reportEvents({ sessionId, epoch, firstRunnerSeq: 1, events: [said("whole")] });
  for (const seen of await watching) expect(seen).toEqual(["synced", "a", "b", "c", before + 1]);
});
