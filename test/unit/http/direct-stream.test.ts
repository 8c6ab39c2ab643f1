import { PassThrough } from "node:stream";
import { create, fromBinary, fromJsonString } from "@bufbuild/protobuf";
import { createContextValues, type Interceptor, type StreamRequest, type StreamResponse } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { ChannelService, type WatchEventsResponse, WatchEventsResponseSchema } from "../../../gen/carrel/v1/channel_service_pb.ts";
import { createDirectStreams, type DirectWriter, directWriterKey, envelopedResponseKey } from "../../../server/http/direct-stream.ts";
import type { HttpResponse } from "../../../server/http/message.ts";

function eventOf(seq: number, text = "hello"): WatchEventsResponse {
  return create(WatchEventsResponseSchema, {
    item: { case: "event", value: { seq, payload: { kind: { case: "user", value: { text } } } } },
  });
}

/** Nobody stops waiting for the reader. */
const alive = new AbortController().signal;

/** A reader whose head is sent unless said otherwise; it takes `room` bytes before it asks for a pause. */
function readerOf(room = 1 << 20, headersSent = true) {
  return Object.assign(new PassThrough({ highWaterMark: room }), { headersSent });
}

/** The writer that a call with this reader is given. */
async function writerFor(
  streams: Interceptor,
  reader: ReturnType<typeof readerOf>,
  contentType = "application/connect+proto",
): Promise<DirectWriter> {
  const contextValues = createContextValues().set(envelopedResponseKey, reader as unknown as HttpResponse);
  const method = ChannelService.method.watchEvents;
  const request = { stream: true, method, header: new Headers({ "content-type": contentType }), contextValues };
  await streams(() => Promise.resolve({} as StreamResponse))(request as unknown as StreamRequest);
  const writer = contextValues.get(directWriterKey);
  if (!writer) throw new Error("the call was given no writer");
  return writer;
}

function envelopesIn(bytes: Buffer): Buffer[] {
  const found: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += 5 + bytes.readUInt32BE(at + 1)) {
    expect(bytes[at]).toBe(0);
    found.push(bytes.subarray(at + 5, at + 5 + bytes.readUInt32BE(at + 1)));
  }
  return found;
}

test("messages are written in order, in the form that the reader asked for", async () => {
  const messages = [1, 2, 3].map((seq) => eventOf(seq));
  const forms: [string, (bytes: Buffer) => WatchEventsResponse][] = [
    ["application/connect+proto", (bytes) => fromBinary(WatchEventsResponseSchema, bytes)],
    ["application/grpc+json", (bytes) => fromJsonString(WatchEventsResponseSchema, bytes.toString())],
  ];
  for (const [contentType, read] of forms) {
    const reader = readerOf();
    const write = await writerFor(createDirectStreams(), reader, contentType);
    expect(await write(messages, alive)).toEqual([]);
    expect(envelopesIn(reader.read() as Buffer).map(read)).toEqual(messages);
  }
});

test("readers who are given one array are written the same bytes, whole", async () => {
  const streams = createDirectStreams();
  const readers = [readerOf(), readerOf()];
  const messages = [1, 2, 3].map((seq) => eventOf(seq));
  const written: Buffer[][] = [[], []];
  for (const [index, reader] of readers.entries()) {
    reader.on("data", (piece: Buffer) => written[index]?.push(piece));
    await (await writerFor(streams, reader))(messages, alive);
  }
  await new Promise(setImmediate);
  expect(written.map((pieces) => pieces.length)).toEqual([1, 1]);
  expect(written[0]?.[0]?.buffer).toBe(written[1]?.[0]?.buffer);
  expect(envelopesIn(written[0]![0]!)).toHaveLength(3);
});

test("large messages, and all before the head is sent, are left to the library", async () => {
  const streams = createDirectStreams();
  const [small, large, after] = [eventOf(1), eventOf(2, "x".repeat(2_000)), eventOf(3)];
  const reader = readerOf();
  expect(await (await writerFor(streams, reader))([small, large, after], alive)).toEqual([large, after]);
  expect(envelopesIn(reader.read() as Buffer)).toHaveLength(1);
  expect(await (await writerFor(streams, readerOf(1 << 20, false)))([small, after], alive)).toEqual([small, after]);
});

test("a slow reader is handed one piece at a time, and nothing once it is gone", async () => {
  const reader = readerOf(16);
  const many = Array.from({ length: 300 }, (_, index) => eventOf(index + 1, "x".repeat(900)));
  let done = false;
  const writing = (await writerFor(createDirectStreams(), reader))(many, alive).finally(() => (done = true));
  const sizes: number[] = [];
  for (let piece = 0; piece < 3; piece += 1) {
    await new Promise(setImmediate);
    expect(done).toBe(false);
    sizes.push(envelopesIn(reader.read() as Buffer).length);
  }
  expect(sizes.every((size) => size > 50 && size < 75)).toBe(true);
  reader.destroy();
  expect(await writing).toEqual([]);
});

test("who stops waiting for a reader is told exactly what it was not handed", async () => {
  const reader = readerOf(16);
  const many = Array.from({ length: 300 }, (_, index) => eventOf(index + 1, "x".repeat(900)));
  const stopping = new AbortController();
  const writing = (await writerFor(createDirectStreams(), reader))(many, stopping.signal);
  await new Promise(setImmediate);
  stopping.abort();
  const left = await writing;
  const handed = envelopesIn(reader.read() as Buffer);
  expect(handed.length + left.length).toBe(many.length);
  expect(left[0]).toBe(many[handed.length]);
});

test("only streams of a server whose messages have envelopes are given a writer", async () => {
  const contextValues = createContextValues();
  const request = { method: ChannelService.method.watchEvents, header: new Headers(), contextValues } as unknown as StreamRequest;
  await createDirectStreams()(() => Promise.resolve({} as StreamResponse))(request);
  expect(contextValues.get(directWriterKey)).toBeUndefined();
});
