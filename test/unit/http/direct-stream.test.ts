import { PassThrough } from "node:stream";
import { create, fromBinary, fromJsonString } from "@bufbuild/protobuf";
import { createContextValues, type StreamRequest, type StreamResponse } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { ChannelService, type WatchEventsResponse, WatchEventsResponseSchema } from "../../../gen/carrel/v1/channel_service_pb.ts";
import { createDirectStreams, envelopedResponseKey } from "../../../server/http/direct-stream.ts";
import type { HttpResponse } from "../../../server/http/message.ts";

function eventOf(seq: number, text = "hello"): WatchEventsResponse {
  return create(WatchEventsResponseSchema, {
    item: { case: "event", value: { seq, payload: { kind: { case: "user", value: { text } } } } },
  });
}

/** A reader whose head is sent unless said otherwise; it takes `room` bytes before it asks for a pause. */
function readerOf(room = 1 << 20, headersSent = true) {
  return Object.assign(new PassThrough({ highWaterMark: room }), { headersSent });
}

/** What is left for the library to write, and how many messages were asked for. */
async function serve(
  reader: ReturnType<typeof readerOf>,
  messages: readonly WatchEventsResponse[],
  contentType = "application/connect+proto",
) {
  const asked = { count: 0 };
  async function* source(): AsyncGenerator<WatchEventsResponse> {
    for (const message of messages) {
      asked.count += 1;
      yield message;
    }
  }
  const contextValues = createContextValues().set(envelopedResponseKey, reader as unknown as HttpResponse);
  const request = {
    stream: true,
    method: ChannelService.method.watchEvents,
    header: new Headers({ "content-type": contentType }),
    contextValues,
  } as unknown as StreamRequest;
  const answer = (await createDirectStreams()(() => Promise.resolve({ stream: true, message: source() } as unknown as StreamResponse))(
    request,
  )) as StreamResponse;
  return { asked, left: collect(answer.message as AsyncIterable<WatchEventsResponse>) };
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
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
    expect(await (await serve(reader, messages, contentType)).left).toEqual([]);
    expect(envelopesIn(reader.read() as Buffer).map(read)).toEqual(messages);
  }
});

test("the first message and large ones are left to the library", async () => {
  const large = eventOf(1, "x".repeat(2_000));
  expect(await (await serve(readerOf(), [large, eventOf(2)])).left).toEqual([large]);
  expect(await (await serve(readerOf(1 << 20, false), [eventOf(1)])).left).toEqual([eventOf(1)]);
});

test("no more is asked for while the reader has no room, and nothing once it is gone", async () => {
  const reader = readerOf(16);
  const { asked, left } = await serve(
    reader,
    [1, 2, 3, 4].map((seq) => eventOf(seq)),
  );
  await new Promise(setImmediate);
  expect(asked.count).toBe(1);
  reader.read();
  await new Promise(setImmediate);
  expect(asked.count).toBe(2);
  reader.destroy();
  expect(await left).toEqual([]);
  expect(asked.count).toBe(3);
});
