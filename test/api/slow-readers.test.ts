/** Readers that take nothing: what they cost the server, on every surface that streams, and how they are let go. */
import { randomBytes } from "node:crypto";
import { connect as connectHttp2, type IncomingHttpHeaders } from "node:http2";
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { ConnectError, createClient } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ChannelService, WatchEventsResponseSchema } from "../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../gen/google/rpc/status_pb.ts";
import { transportOf } from "../contract/protocols-client.ts";
import { deafSurfaces, grpcHeaders, startDeafReaders, watchBody } from "../support/deaf-readers.ts";
import { createHarness, type Harness, type Person } from "./websocket-harness.ts";

const events = 700;
const eventBytes = 20_000;
const readers = 16;
/** Text that stays as long on its way as it is. */
const incompressible = (): string => randomBytes((eventBytes * 3) / 4).toString("base64");
const mostBytes = 256 * 1024;

let harness: Harness;
let owner: Person;
/** A session whose log is far more than the kernel takes for a reader. */
let sessionId: string;
let lastSeq: number;

beforeAll(async () => {
  harness = await createHarness();
  owner = await harness.person("owner@example.com");
  sessionId = await harness.session(owner);
  for (let index = 0; index < events / 20; index++) await harness.append(sessionId, ...Array.from({ length: 20 }, incompressible));
  lastSeq = (await harness.reader.session(owner.userId, sessionId)).last_seq;
});
afterAll(() => harness.close());

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/** What this thread, which is the server's, holds for good. */
function heldBytes(): number {
  collect();
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

describe("a reader that takes nothing", () => {
  it.each(deafSurfaces)(`by %s costs at most ${mostBytes / 1024} KiB`, async (surface) => {
    const served = await harness.serve();
    const deaf = (count: number) => startDeafReaders({ surface, port: served.port, token: owner.token, sessionId, count });
    // Whatever is made once and kept, connections of the pool included, is made by then.
    const first = await deaf(readers);
    await sleep(500);
    await first.leave();
    await expect.poll(() => harness.feeds.size, { timeout: 15_000 }).toBe(0);
    const before = heldBytes();
    const many = await deaf(readers);
    // Until nobody is given more. What is on its way to a reader is held by the page it comes from for a moment.
    const samples: number[] = [];
    const isResting = () => samples.length > 3 && samples.slice(-3).every((one) => Math.abs(one - samples.at(-4)!) < 100_000);
    while (!isResting() && samples.length < 40) {
      await sleep(300);
      samples.push(heldBytes());
    }
    const held = Math.min(...samples.slice(-4));
    const watched = harness.feeds.size;
    await many.leave();
    await expect.poll(() => harness.feeds.size, { timeout: 15_000 }).toBe(0);
    expect(watched).toBe(1);
    expect((held - before) / readers).toBeGreaterThan(0);
    expect((held - before) / readers).toBeLessThan(mostBytes);
  });

  it("by Connect over HTTP/1.1 is let go, and finds behind what it was sent where to resume", async () => {
    const served = await harness.serve({}, undefined, 400);
    const client = createClient(ChannelService, transportOf("connect-binary", "http1", `http://127.0.0.1:${served.port}`));
    const headers = { authorization: `Bearer ${owner.token}` };
    const seqs: number[] = [];
    const reading = (async () => {
      for await (const { item } of client.watchEvents({ sessionId }, { headers })) {
        if (item.case !== "event") continue;
        if (seqs.push(item.value.seq) === 1) await expect.poll(() => harness.feeds.size, { timeout: 10_000 }).toBe(0);
      }
    })();
    const [info] = ConnectError.from(await reading.catch((cause: unknown) => cause)).findDetails(ErrorInfoSchema);
    expect(info).toMatchObject({ reason: "READER_TOO_SLOW", domain: "carrel" });
    const resumeAfter = Number(info?.metadata["resume_after"]);
    expect(seqs).toEqual(Array.from({ length: resumeAfter }, (_, index) => index + 1));
    expect(resumeAfter).toBeLessThan(lastSeq);
    const leave = new AbortController();
    for await (const { item } of client.watchEvents({ sessionId, afterSeq: resumeAfter }, { headers, signal: leave.signal })) {
      if (item.case === "event") seqs.push(item.value.seq);
      if (item.case === "synced") break;
    }
    leave.abort();
    await expect.poll(() => harness.feeds.size, { timeout: 15_000 }).toBe(0);
    expect(seqs).toEqual(Array.from({ length: lastSeq }, (_, index) => index + 1));
  });

  // On bare HTTP/2: the library's client reads ahead of whoever uses it.
  it("by gRPC is let go, and finds behind what it was sent where to resume", async () => {
    const served = await harness.serve({}, undefined, 400);
    const session = connectHttp2(`http://127.0.0.1:${served.port}`);
    const stream = session.request(grpcHeaders(owner.token));
    stream.pause().end(watchBody(sessionId));
    const trailers = new Promise<IncomingHttpHeaders>((resolve) => stream.once("trailers", resolve));
    await new Promise<void>((resolve) => stream.once("response", () => resolve()));
    await expect.poll(() => harness.feeds.size, { timeout: 10_000 }).toBe(0);
    const chunks: Buffer[] = [];
    for await (const chunk of stream) chunks.push(chunk as Buffer);
    const { "grpc-status": status, "grpc-status-details-bin": details } = await trailers;
    session.close();
    expect(status).toBe("8");
    const [detail] = fromBinary(StatusSchema, Buffer.from(String(details), "base64")).details;
    const info = detail && anyUnpack(detail, ErrorInfoSchema);
    expect(info).toMatchObject({ reason: "READER_TOO_SLOW", metadata: { resume_after: String(lastEventIn(Buffer.concat(chunks))) } });
  });
});

/** The number of the last event in a body of envelopes. */
function lastEventIn(body: Buffer): number {
  let last = 0;
  for (let at = 0; at < body.length; at += 5 + body.readUInt32BE(at + 1)) {
    const { item } = fromBinary(WatchEventsResponseSchema, body.subarray(at + 5, at + 5 + body.readUInt32BE(at + 1)));
    if (item.case === "event") last = item.value.seq;
  }
  return last;
}

it("a stream that the server ends by stopping says where to resume", async () => {
  const served = await harness.serve();
  const client = createClient(ChannelService, transportOf("grpc", "http2", `http://127.0.0.1:${served.port}`));
  const reading = (async () => {
    let seen = 0;
    for await (const { item } of client.watchEvents(
      { sessionId, afterSeq: lastSeq - 3 },
      { headers: { authorization: `Bearer ${owner.token}` } },
    )) {
      if (item.case === "event") seen = item.value.seq;
      if (item.case === "synced") void served.close();
    }
    return seen;
  })();
  const error = ConnectError.from(await reading.catch((cause: unknown) => cause));
  expect(error.findDetails(ErrorInfoSchema)).toMatchObject([{ reason: "SHUTTING_DOWN", metadata: { resume_after: String(lastSeq) } }]);
});
