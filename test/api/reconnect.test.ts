/**
 * Clients that are cut at random, on every surface that streams, and clients that read nothing.
 * CARREL_TEST_CUTS=500 is the long form: so often each client is cut.
 */
import { randomInt } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { toBinary } from "@bufbuild/protobuf";
import { ConnectError, createClient } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, it } from "vitest";
import WebSocket from "ws";
import { ChannelService } from "../../gen/carrel/v1/channel_service_pb.ts";
import { type Event, EventSchema, FrameSchema } from "../../gen/carrel/v1/event_pb.ts";
import { frameOf } from "../../server/channel/frames.ts";
import { createMessageWriters } from "../../server/http/rest/writer.ts";
import { type HttpVersion, type RpcProtocol, transportOf } from "../contract/protocols-client.ts";
import { startCuttingProxy } from "../support/cutting-proxy.ts";
import { createHarness, type Harness, type Person, type Served } from "./websocket-harness.ts";

const cuts = Number(process.env["CARREL_TEST_CUTS"] ?? 100);

let harness: Harness;
let served: Served;
let owner: Person;

beforeAll(async () => {
  harness = await createHarness();
  served = await harness.serve();
  owner = await harness.person("owner@example.com");
});
afterAll(() => harness.close());

/** What a client has: each event as the bytes it came in, by its number. */
type Received = { seq: number; bytes: string }[];

/** Reads from a port until the connection is cut or `signal` aborts. */
type Reader = (port: number, afterSeq: number, signal: AbortSignal, take: (seq: number, bytes: string) => void) => Promise<void>;

const byWebSocket =
  (sessionId: string): Reader =>
  (port, afterSeq, signal, take) =>
    new Promise((resolve) => {
      const socket = new WebSocket(`ws://127.0.0.1:${port}/v1/sessions/${sessionId}/ws?after_seq=${afterSeq}&include_deltas=true`, {
        headers: { authorization: `Bearer ${owner.token}` },
      });
      signal.addEventListener("abort", () => socket.terminate(), { once: true });
      socket.on("error", () => undefined).on("close", () => resolve());
      socket.on("message", (data) => {
        const text = String(data);
        const { seq } = JSON.parse(text) as { seq?: number };
        if (seq !== undefined) take(seq, text);
      });
    });

const byRpc =
  (sessionId: string, protocol: RpcProtocol, version: HttpVersion): Reader =>
  async (port, afterSeq, signal, take) => {
    const client = createClient(ChannelService, transportOf(protocol, version, `http://127.0.0.1:${port}`));
    const headers = { authorization: `Bearer ${owner.token}` };
    try {
      for await (const { item } of client.watchEvents({ sessionId, afterSeq, includeDeltas: true }, { headers, signal }))
        if (item.case === "event") take(item.value.seq, encoded(item.value));
    } catch (error) {
      if (!(error instanceof ConnectError)) throw error;
    }
  };

function encoded(event: Event): string {
  return Buffer.from(toBinary(EventSchema, event)).toString("base64");
}

type CutClient = { name: string; made(): number; finished: Promise<Received> };

/** One client that is cut `cuts` times and always comes back after what it has; reads on until it has all up to `last`. */
async function cutClient(name: string, reader: Reader, last: () => number): Promise<CutClient> {
  const proxy = await startCuttingProxy(served.port);
  const received: Received = [];
  let made = 0;
  const cutter = (async () => {
    while (made < cuts) {
      await sleep(randomInt(2, 22));
      if (proxy.cut()) made += 1;
    }
  })();
  const hasAll = (): boolean => made >= cuts && (received.at(-1)?.seq ?? 0) >= last();
  const read = async (): Promise<Received> => {
    while (!hasAll()) {
      const leave = new AbortController();
      await reader(proxy.port, received.at(-1)?.seq ?? 0, leave.signal, (seq, bytes) => {
        received.push({ seq, bytes });
        if (hasAll()) leave.abort();
      });
    }
    await cutter;
    await proxy.close();
    return received;
  };
  return { name, made: () => made, finished: read() };
}

it(`two clients of each surface, cut ${cuts} times each while a turn streams, read every event once, in order, as the log has it`, {
  timeout: cuts * 200 + 30_000,
}, async () => {
  const sessionId = await harness.session(owner);
  const readers = {
    webSocket: byWebSocket(sessionId),
    connect: byRpc(sessionId, "connect-binary", "http1"),
    grpc: byRpc(sessionId, "grpc", "http2"),
  };
  let last = Number.POSITIVE_INFINITY;
  const clients = await Promise.all(
    Object.entries(readers).flatMap(([name, reader]) => [1, 2].map(() => cutClient(name, reader, () => last))),
  );
  for (let index = 0; clients.some(({ made }) => made() < cuts); index++) {
    const texts = Array.from({ length: randomInt(1, 4) }, (_, part) => `${index}.${part} ${"x".repeat(randomInt(2_000))}`);
    harness.feeds.pushDeltas(sessionId, [
      { $typeName: "carrel.v1.Delta", blockId: `b${index}`, kind: 1, text: "x".repeat(50), offset: 0, parentToolUseId: "" },
    ]);
    await harness.append(sessionId, ...texts);
    await sleep(randomInt(12));
  }
  last = (await harness.reader.session(owner.userId, sessionId)).last_seq;
  // One more, so that whoever has them all already learns it.
  await harness.append(sessionId, "the last");

  const session = await harness.reader.session(owner.userId, sessionId);
  const log: Event[] = [];
  while (log.length < session.last_seq) log.push(...(await harness.reader.events(session, log.length, 200)));
  const write = createMessageWriters()(FrameSchema);
  const frames = log.map((event) => JSON.stringify(write(frameOf(sessionId, event)!)));
  for (const { name, finished } of clients) {
    const received = await finished;
    expect(received.length, name).toBeGreaterThanOrEqual(last);
    expect(
      received.map(({ seq }) => seq),
      name,
    ).toEqual(received.map((_, index) => index + 1));
    expect(
      received.map(({ bytes }) => bytes),
      name,
    ).toEqual((name === "webSocket" ? frames : log.map(encoded)).slice(0, received.length));
  }
  await expect.poll(() => harness.feeds.size, { timeout: 15_000 }).toBe(0);
});
