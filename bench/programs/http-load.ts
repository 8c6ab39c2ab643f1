// Sends one unary request over and over on many connections. Written on sockets, so that it costs the machine little.
import { connect, type Socket } from "node:net";
import { answerParent } from "../support/program.ts";

type Question = { url: string; path: string; token: string; body: string; connections: number; forMs: number };

type Run = { ends: number; answered: number; failed: number };

answerParent<Question>(undefined, async (question) => {
  const run: Run = { ends: performance.now() + question.forMs, answered: 0, failed: 0 };
  const started = performance.now();
  const request = requestOf(question);
  await Promise.all(Array.from({ length: question.connections }, () => converse(new URL(question.url), request, run)));
  return { perSecond: run.answered / ((performance.now() - started) / 1_000), failed: run.failed };
});

function requestOf({ url, path, token, body }: Question): string {
  const head = [
    `POST ${path} HTTP/1.1`,
    `host: ${new URL(url).host}`,
    "content-type: application/json",
    "connect-protocol-version: 1",
    `authorization: Bearer ${token}`,
    `content-length: ${Buffer.byteLength(body)}`,
  ];
  return `${head.join("\r\n")}\r\n\r\n${body}`;
}

/** One request at a time on one connection. */
function converse({ hostname, port }: URL, request: string, run: Run): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket: Socket = connect(Number(port), hostname, () => socket.write(request));
    let got = "";
    socket.setNoDelay(true).setEncoding("latin1");
    socket.on("error", reject).on("close", () => resolve());
    socket.on("data", (data: string) => {
      got += data;
      if (!isWhole(got)) return;
      if (got.startsWith("HTTP/1.1 200")) run.answered += 1;
      else run.failed += 1;
      got = "";
      if (performance.now() < run.ends) socket.write(request);
      else socket.end();
    });
  });
}

function isWhole(answer: string): boolean {
  const head = answer.indexOf("\r\n\r\n");
  if (head < 0) return false;
  const length = /\r\ncontent-length: (\d+)/i.exec(answer)?.[1];
  if (length === undefined) throw new Error("an answer without a length");
  return answer.length >= head + 4 + Number(length);
}
