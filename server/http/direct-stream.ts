import type { Writable } from "node:stream";
import { type DescMessage, type Message, toBinary, toJsonString } from "@bufbuild/protobuf";
import { createContextKey, type Interceptor } from "@connectrpc/connect";
import { type HttpResponse, isOver } from "./message.ts";

/** The response behind a call, where its protocol puts each message into an envelope. */
export const envelopedResponseKey = createContextKey<HttpResponse | undefined>(undefined, { description: "carrel.enveloped-response" });

/** Larger messages go the library's way, which compresses them for readers that take it; smaller ones are never compressed. */
const mostBytes = 1023;
const envelopeHead = 5;

type Encode = (message: Message) => Buffer | undefined;

/**
 * The outermost interceptor: writes the messages of server streams itself. The library takes each through ten asynchronous
 * steps and encodes it for every reader anew, which costs several times its bytes; here a message object is encoded once
 * per wire form, however many readers are given it. Beginning, errors, trailers and end of a stream stay the library's.
 */
export function createDirectStreams(): Interceptor {
  const encoders = { binary: createEncoder(toBinary), json: createEncoder((desc, message) => Buffer.from(toJsonString(desc, message))) };
  return (next) => async (request) => {
    const answer = await next(request);
    const response = request.contextValues.get(envelopedResponseKey);
    if (!answer.stream || response === undefined || request.method.methodKind !== "server_streaming") return answer;
    const form = request.header.get("content-type")?.endsWith("json") ? "json" : "binary";
    return { ...answer, message: directly(answer.message, response, (message) => encoders[form](request.method.output, message)) };
  };
}

async function* directly<T extends Message>(messages: AsyncIterable<T>, response: HttpResponse, encode: Encode): AsyncGenerator<T> {
  const reader: Writable = response;
  for await (const message of messages) {
    // The head is sent with the first message; one asked for afterwards finds all earlier ones written.
    const envelope = response.headersSent ? encode(message) : undefined;
    if (envelope === undefined) yield message;
    else if (isOver(response)) return;
    else if (!reader.write(envelope)) await drained(response);
  }
}

/** An envelope's flag is 0 for a plain message, in Connect, gRPC and gRPC-Web alike; its length follows. */
function createEncoder(
  bytesOf: (desc: DescMessage, message: Message) => Uint8Array,
): (desc: DescMessage, message: Message) => Buffer | undefined {
  const envelopes = new WeakMap<Message, Buffer>();
  return (desc, message) => {
    const known = envelopes.get(message);
    if (known) return known;
    const bytes = bytesOf(desc, message);
    if (bytes.length > mostBytes) return undefined;
    const envelope = Buffer.allocUnsafe(envelopeHead + bytes.length);
    envelope[0] = 0;
    envelope.writeUInt32BE(bytes.length, 1);
    envelope.set(bytes, envelopeHead);
    envelopes.set(message, envelope);
    return envelope;
  };
}

/** Resolves when there is room again, or nobody left to read. */
function drained(response: HttpResponse): Promise<void> {
  return new Promise((resolve) => {
    const settle = (): void => {
      response.off("drain", settle);
      response.off("close", settle);
      resolve();
    };
    response.on("drain", settle);
    response.on("close", settle);
  });
}
