// Many readers of one stream: opens it so many times and counts what arrives, without decoding it.
import { type ClientHttp2Session, connect } from "node:http2";
import { answerParent } from "../support/program.ts";

type Question =
  | { ask: "open"; url: string; path: string; token: string; body: string; streams: number }
  | { ask: "count"; deliveries: number; forMs: number }
  | { ask: "close" };

const streamsPerConnection = 100;
/** Smaller messages are marks and keep-alives, not events. */
const eventBytes = 200;
const connections: ClientHttp2Session[] = [];
let delivered = 0;
let firstAt = 0;
let lastAt = 0;

answerParent<Question>(undefined, async (question) => {
  if (question.ask === "open") return open(question);
  if (question.ask === "count") return count(question.deliveries, question.forMs);
  for (const connection of connections.splice(0)) connection.destroy();
  return undefined;
});

/** Resolves when every stream has had its first message. */
async function open({ url, path, token, body, streams }: Extract<Question, { ask: "open" }>): Promise<void> {
  const headers = {
    ":method": "POST",
    ":path": path,
    "content-type": "application/connect+proto",
    "connect-protocol-version": "1",
    authorization: `Bearer ${token}`,
  };
  const opened: Promise<void>[] = [];
  for (let index = 0; index < streams; index += 1) {
    if (index % streamsPerConnection === 0) connections.push(connect(url));
    const stream = connections.at(-1)!.request(headers);
    stream.on("error", () => stream.destroy());
    opened.push(
      new Promise((resolve, reject) => {
        stream.once("close", () => reject(new Error("a stream was closed before its first message")));
        stream.on("data", countEnvelopes(resolve));
      }),
    );
    stream.end(Buffer.from(body, "base64"));
  }
  await Promise.all(opened);
}

/** Waits for so many events since the last question, and says how long they took from the first to the last. */
async function count(deliveries: number, forMs: number): Promise<{ delivered: number; milliseconds: number }> {
  const deadline = performance.now() + forMs;
  while (delivered < deliveries && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
  const answer = { delivered, milliseconds: lastAt - firstAt };
  delivered = 0;
  return answer;
}

/** Follows the five-byte heads of the envelopes through the chunks of one stream. */
function countEnvelopes(onMessage: () => void): (chunk: Buffer) => void {
  let rest: Buffer | undefined;
  let skip = 0;
  return (chunk) => {
    let data = rest ? Buffer.concat([rest, chunk]) : chunk;
    rest = undefined;
    if (skip >= data.length) {
      skip -= data.length;
      return;
    }
    data = data.subarray(skip);
    skip = 0;
    while (data.length >= 5) {
      const length = data.readUInt32BE(1);
      if (length >= eventBytes) countOne();
      onMessage();
      if (data.length < 5 + length) {
        skip = 5 + length - data.length;
        return;
      }
      data = data.subarray(5 + length);
    }
    if (data.length > 0) rest = data;
  };
}

function countOne(): void {
  lastAt = performance.now();
  if (delivered === 0) firstAt = lastAt;
  delivered += 1;
}
