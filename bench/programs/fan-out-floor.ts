// The floor of a fan-out: a bare HTTP/2 server that writes one envelope, encoded beforehand, to every open stream.
import { createServer, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { answerParent, settingsOfProgram } from "../support/program.ts";

type Question = { ask: "collect" } | { ask: "send"; batches: number; batchEvents: number };

const { event, synced } = settingsOfProgram<{ event: string; synced: string }>();
const envelope = Buffer.from(event, "base64");
const first = Buffer.from(synced, "base64");
const streams = new Set<ServerHttp2Stream>();

const server = createServer({ settings: { maxConcurrentStreams: 200 } });
server.on("session", (session) => session.on("error", () => session.destroy()));
server.on("stream", (stream) => {
  stream.on("error", () => stream.destroy());
  stream.once("close", () => streams.delete(stream));
  stream.resume();
  stream.respond({ ":status": 200, "content-type": "application/connect+proto" });
  stream.write(first);
  streams.add(stream);
});
server.listen(0, "127.0.0.1", () => {
  answerParent<Question>({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }, async (question) => {
    if (question.ask === "collect") {
      for (let pass = 0; pass < 3; pass += 1) globalThis.gc?.();
      return { rss: process.memoryUsage.rss() };
    }
    // As events come: a few at a time, and to everybody before the next few.
    for (let sent = 0; sent < question.batches; sent += 1) {
      await Promise.all([...streams].map((stream) => writeTimes(stream, question.batchEvents)));
    }
    return undefined;
  });
});

async function writeTimes(stream: ServerHttp2Stream, times: number): Promise<void> {
  for (let written = 1; written < times; written += 1) stream.write(envelope);
  await new Promise((resolve) => stream.write(envelope, resolve));
}
