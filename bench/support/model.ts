import { EventEmitter, once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** A model whose tokens say when they were written. It refuses nothing and answers every request alike. */
export type StampingModel = {
  url: string;
  /** The shape of the answers from now on. */
  answer: { tokens: number; paceMs: number };
  /** When the next request for a message arrives, by `performance.now()`. */
  nextRequest(): Promise<number>;
  close(): void;
};

const usage = { input_tokens: 100, output_tokens: 10 };

export async function createStampingModel(): Promise<StampingModel> {
  const arrivals = new EventEmitter();
  const answer = { tokens: 1, paceMs: 0 };
  const server = createServer({ keepAliveTimeout: 300_000 }, (request, response) => {
    if (request.url?.startsWith("/v1/messages") && !request.url.includes("count_tokens")) arrivals.emit("request", performance.now());
    request.resume();
    request.once("end", () => {
      // A client that leaves in the middle of an answer is the measure's own doing.
      reply(request, response, answer).catch(() => response.destroy());
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    answer,
    nextRequest: async () => ((await once(arrivals, "request", { signal: AbortSignal.timeout(60_000) })) as [number])[0],
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

async function reply(request: IncomingMessage, response: ServerResponse, { tokens, paceMs }: StampingModel["answer"]): Promise<void> {
  if (request.url?.includes("count_tokens")) {
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ input_tokens: 100 }));
    return;
  }
  const send = (type: string, fields: object) => response.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`);
  const message = {
    id: `msg_${Math.random().toString(36).slice(2)}`,
    type: "message",
    role: "assistant",
    model: "bench",
    content: [],
    stop_reason: null,
    stop_sequence: null,
    usage,
  };
  response.writeHead(200, { "content-type": "text/event-stream" });
  send("message_start", { message });
  send("content_block_start", { index: 0, content_block: { type: "text", text: "" } });
  for (let token = 0; token < tokens; token += 1) {
    if (paceMs > 0) await sleep(paceMs);
    send("content_block_delta", { index: 0, delta: { type: "text_delta", text: stamp() } });
  }
  send("content_block_stop", { index: 0 });
  send("message_delta", { delta: { stop_reason: "end_turn", stop_sequence: null }, usage });
  send("message_stop", {});
  response.end();
}

function stamp(): string {
  return `@${performance.now().toFixed(3)} `;
}

/** When the tokens in a piece of text were written. */
export function stampsIn(text: string): number[] {
  return [...text.matchAll(/@([\d.]+)/g)].map(([, time]) => Number(time));
}
