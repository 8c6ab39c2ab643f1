/** Readers that ask for a session's events and then take nothing. A thread of its own, so that what they hold is not the server's. */
import { randomBytes } from "node:crypto";
import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { parentPort, Worker, workerData } from "node:worker_threads";
import { create, toBinary } from "@bufbuild/protobuf";
import { WatchEventsRequestSchema } from "../../gen/carrel/v1/channel_service_pb.ts";

export const deafSurfaces = ["webSocket", "connect", "grpc"] as const;
export type DeafSurface = (typeof deafSurfaces)[number];
export type DeafReaders = { surface: DeafSurface; port: number; token: string; sessionId: string; count: number };

/** Resolves when all have asked; `leave` cuts them. */
export async function startDeafReaders(readers: DeafReaders): Promise<{ leave(): Promise<void> }> {
  const worker = new Worker(new URL(import.meta.url), { workerData: readers });
  await new Promise<void>((resolve, reject) => worker.once("message", () => resolve()).once("error", reject));
  return { leave: async () => void (await worker.terminate()) };
}

const path = "/carrel.v1.ChannelService/WatchEvents";

/** The request in one envelope, as Connect and gRPC both send it. */
export function watchBody(sessionId: string): Uint8Array {
  const message = toBinary(WatchEventsRequestSchema, create(WatchEventsRequestSchema, { sessionId }));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

export function grpcHeaders(token: string) {
  return { ":method": "POST", ":path": path, "content-type": "application/grpc+proto", te: "trailers", authorization: `Bearer ${token}` };
}

async function makeDeaf({ surface, port, token, sessionId }: DeafReaders): Promise<void> {
  const body = watchBody(sessionId);
  switch (surface) {
    case "webSocket":
      return deafSocket(port, token, [
        `GET /v1/sessions/${sessionId}/ws HTTP/1.1`,
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-version: 13",
        `sec-websocket-key: ${randomBytes(16).toString("base64")}`,
      ]);
    case "connect": {
      const head = [`POST ${path} HTTP/1.1`, "content-type: application/connect+proto", `content-length: ${body.length}`];
      return deafSocket(port, token, head, body);
    }
    case "grpc": {
      const stream = connectHttp2(`http://127.0.0.1:${port}`).request(grpcHeaders(token));
      stream.pause().end(body);
      return new Promise((resolve) => stream.once("response", () => resolve()));
    }
  }
}

async function deafSocket(port: number, token: string, head: readonly string[], body: Uint8Array = Buffer.alloc(0)): Promise<void> {
  const socket = connect(port, "127.0.0.1").pause();
  await new Promise<void>((resolve) => socket.once("connect", () => resolve()));
  const lines = [...head, "host: localhost", `authorization: Bearer ${token}`];
  socket.write(Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`), body]));
}

if (parentPort && isDeafReaders(workerData)) {
  // Sockets that are not read from keep no thread alive.
  setInterval(() => undefined, 60_000);
  for (let index = 0; index < workerData.count; index++) await makeDeaf(workerData);
  parentPort.postMessage("ready");
}

/** Test runners have workers of their own, with other data. */
function isDeafReaders(data: unknown): data is DeafReaders {
  return typeof data === "object" && data !== null && "surface" in data;
}
