import type { Writable } from "node:stream";
import { type DescMessage, type Message, toBinary, toJsonString } from "@bufbuild/protobuf";
import { createContextKey, type Interceptor } from "@connectrpc/connect";
import { type HttpResponse, isOver } from "./message.ts";

/** The response behind a call, where its protocol puts each message into an envelope. */
export const envelopedResponseKey = createContextKey<HttpResponse | undefined>(undefined, { description: "carrel.enveloped-response" });

/**
 * Writes messages of a server stream past the library, in order, and resolves when the reader has room for more, or when
 * `signal` aborts. Resolves with those that are not written: from the first on that only the library may write, or that came
 * after the abort.
 */
export type DirectWriter = <T extends Message>(messages: readonly T[], signal: AbortSignal) => Promise<readonly T[]>;

/** Where a call has one, its handler may use it between two messages that it yields. */
export const directWriterKey = createContextKey<DirectWriter | undefined>(undefined, { description: "carrel.direct-writer" });

/** Larger messages go the library's way, which compresses them for readers that take it; smaller ones are never compressed. */
const mostBytes = 1023;
/** What is handed to a reader at once. It may have as much again waiting in its connection. */
const pieceBytes = 64 * 1024;
const envelopeHead = 5;

type Piece = { bytes: Buffer; count: number };
type Encoded = readonly Piece[];
type Encode = (messages: readonly Message[]) => Encoded;

/**
 * Gives server streams their direct writer. The library takes each message through ten asynchronous steps and encodes it for
 * every reader anew, which costs several times its bytes; here a message object is encoded once per wire form, an array of them
 * becomes one piece of bytes, and all readers who are given the same array are written the same bytes. Beginning, errors,
 * trailers and end of a stream stay the library's.
 */
export function createDirectStreams(): Interceptor {
  const encoders = { binary: createEncoder(toBinary), json: createEncoder((desc, message) => Buffer.from(toJsonString(desc, message))) };
  return (next) => (request) => {
    const { contextValues, header, method } = request;
    const response = contextValues.get(envelopedResponseKey);
    if (response !== undefined && method.methodKind === "server_streaming") {
      const encode = encoders[header.get("content-type")?.endsWith("json") ? "json" : "binary"];
      contextValues.set(
        directWriterKey,
        createWriter(response, (messages) => encode(method.output, messages)),
      );
    }
    return next(request);
  };
}

function createWriter(response: HttpResponse, encode: Encode): DirectWriter {
  const reader: Writable = response;
  return async (messages, signal) => {
    // The head is sent with the first message; whoever is asked for the next finds all earlier ones written.
    if (!response.headersSent) return messages;
    let written = 0;
    for (const { bytes, count } of encode(messages)) {
      if (isOver(response)) return [];
      if (signal.aborted) break;
      written += count;
      if (!reader.write(bytes)) await drained(response, signal);
    }
    return messages.slice(written);
  };
}

function createEncoder(
  bytesOf: (desc: DescMessage, message: Message) => Uint8Array,
): (desc: DescMessage, messages: readonly Message[]) => Encoded {
  const runs = new WeakMap<readonly Message[], Encoded>();
  const envelopes = new WeakMap<Message, Buffer>();
  const envelopeOf = (desc: DescMessage, message: Message): Buffer | undefined => {
    const known = envelopes.get(message);
    if (known) return known;
    const bytes = bytesOf(desc, message);
    if (bytes.length > mostBytes) return undefined;
    const envelope = enveloped(bytes);
    envelopes.set(message, envelope);
    return envelope;
  };
  return (desc, messages) => {
    const known = runs.get(messages);
    if (known) return known;
    const found: Buffer[] = [];
    for (const message of messages) {
      const envelope = envelopeOf(desc, message);
      if (envelope === undefined) break;
      found.push(envelope);
    }
    const run = joined(found);
    runs.set(messages, run);
    return run;
  };
}

/** An envelope's flag is 0 for a plain message, in Connect, gRPC and gRPC-Web alike; its length follows. */
function enveloped(bytes: Uint8Array): Buffer {
  const envelope = Buffer.allocUnsafe(envelopeHead + bytes.length);
  envelope[0] = 0;
  envelope.writeUInt32BE(bytes.length, 1);
  envelope.set(bytes, envelopeHead);
  return envelope;
}

function joined(envelopes: readonly Buffer[]): Encoded {
  const pieces: Piece[] = [];
  let waiting: Buffer[] = [];
  let bytes = 0;
  const flush = (): void => {
    const count = waiting.length;
    if (count > 0) pieces.push({ bytes: count === 1 ? waiting[0]! : Buffer.concat(waiting, bytes), count });
    [waiting, bytes] = [[], 0];
  };
  for (const envelope of envelopes) {
    if (bytes + envelope.length > pieceBytes) flush();
    waiting.push(envelope);
    bytes += envelope.length;
  }
  flush();
  return pieces;
}

/** Resolves when there is room again, nobody left to read, or nobody who waits for it. */
function drained(response: HttpResponse, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const settle = (): void => {
      response.off("drain", settle);
      response.off("close", settle);
      signal.removeEventListener("abort", settle);
      resolve();
    };
    response.on("drain", settle);
    response.on("close", settle);
    signal.addEventListener("abort", settle);
  });
}
