import { create, toBinary } from "@bufbuild/protobuf";
import { WatchEventsRequestSchema, WatchEventsResponseSchema } from "../../gen/carrel/v1/channel_service_pb.ts";
import type { Measure } from "../measure.ts";
import { give, startOrderly } from "../support/orders.ts";
import { type Program, startProgram } from "../support/program.ts";
import { inTurns, median } from "../support/statistics.ts";

const path = "/carrel.v1.ChannelService/WatchEvents";
const payloadBytes = 300;
/** Events come a few at a time, so that the readers are measured and not the commits. */
const batchEvents = 10;

/** One session and a thousand watchers; the floor writes one encoded envelope to a thousand streams. */
export const fanOut: Measure = {
  name: "fan-out",
  async run(lab) {
    const streams = 1_000;
    const batches = lab.quick ? 3 : 10;
    const events = batches * batchEvents;
    const carrel = await lab.startCarrel({ runnerPath: await lab.fakeRunner() });
    const floor = await startProgram<{ url: string }>("fan-out-floor", floorMessages(), ["--expose-gc"]);
    const sessionId = await startOrderly(carrel);
    await give(carrel, sessionId, { batches: 5, forMs: 5_000, batchEvents, payloadBytes });
    const watchEvents = async (): Promise<{ url: string; path: string; token: string; body: string }> => {
      const afterSeq = (await carrel.client.sessions.getSession({ sessionId })).session?.lastSeq ?? 0;
      const request = toBinary(WatchEventsRequestSchema, create(WatchEventsRequestSchema, { sessionId, afterSeq }));
      return { url: carrel.url, path, token: carrel.token, body: enveloped(request) };
    };
    const [ourReaders, floorReaders] = [await startProgram("watchers", {}), await startProgram("watchers", {})];
    const memory = {
      ours: await perStream(
        streams,
        () => carrel.collectedMemory(),
        async () => ourReaders.ask({ ask: "open", streams, ...(await watchEvents()) }),
      ),
      floor: await perStream(
        streams,
        () => floor.ask<{ rss: number }>({ ask: "collect" }),
        () => floorReaders.ask({ ask: "open", streams, url: floor.said.url, path, token: "", body: "" }),
      ),
    };
    const rates = await inTurns(
      lab.quick ? 2 : 5,
      () =>
        deliveriesPerSecond(ourReaders, streams * events, () =>
          give(carrel, sessionId, { batches, forMs: 30_000, batchEvents, payloadBytes }),
        ),
      () => deliveriesPerSecond(floorReaders, streams * events, () => floor.ask({ ask: "send", batches, batchEvents })),
      1,
    );
    for (const program of [ourReaders, floorReaders, floor]) await program.stop();
    await carrel.stop();
    return [
      {
        measure: `1 → ${streams} watchers, deliveries`,
        unit: "per s",
        ours: median(rates.ours),
        floor: median(rates.floor),
        aim: { of: "ratio", atLeast: 0.5 },
      },
      {
        measure: "memory of an idle watch (server RSS)",
        unit: "KB",
        ours: memory.ours / 1_000,
        floor: memory.floor / 1_000,
        aim: undefined,
      },
    ];
  },
};

/** The floor's own two messages: an event as ours are, and the mark that a reader waits for at the start. */
function floorMessages(): { event: string; synced: string } {
  const content = { case: "text" as const, value: "x".repeat(payloadBytes) };
  const kind = { case: "assistant" as const, value: { blockId: "bench", messageId: "bench", content } };
  const event = create(WatchEventsResponseSchema, {
    item: { case: "event", value: { seq: 1_000, turn: 100, createdAt: { seconds: 1_700_000_000n, nanos: 1_000_000 }, payload: { kind } } },
  });
  const synced = create(WatchEventsResponseSchema, { item: { case: "synced", value: { lastSeq: 1_000 } } });
  return { event: enveloped(toBinary(WatchEventsResponseSchema, event)), synced: enveloped(toBinary(WatchEventsResponseSchema, synced)) };
}

/** Connect's envelope, in base64: a flag, four bytes of length, the message. */
function enveloped(message: Uint8Array): string {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]).toString("base64");
}

async function perStream(streams: number, collected: () => Promise<{ rss: number }>, open: () => Promise<unknown>): Promise<number> {
  const before = await collected();
  await open();
  const after = await collected();
  return (after.rss - before.rss) / streams;
}

/** From the first delivery to the last, as the readers saw them. */
async function deliveriesPerSecond(readers: Program, deliveries: number, send: () => Promise<unknown>): Promise<number> {
  const counted = readers.ask<{ delivered: number; milliseconds: number }>({ ask: "count", deliveries, forMs: 60_000 });
  await send();
  const { delivered, milliseconds } = await counted;
  if (delivered < deliveries) throw new Error(`${delivered} of ${deliveries} events were delivered`);
  return (delivered * 1_000) / milliseconds;
}
