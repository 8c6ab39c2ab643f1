// Sends one unary request after the other at a steady pace on one connection, and says how long the answers took.
import { Agent, request as httpRequest } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { answerParent } from "../support/program.ts";
import { percentile } from "../support/statistics.ts";

type Question = { url: string; path: string; token: string; body: string; everyMs: number; forMs: number };

const agent = new Agent({ keepAlive: true, maxSockets: 1 });

answerParent<Question>(undefined, async (question) => {
  const times: number[] = [];
  const start = performance.now();
  for (let index = 0; performance.now() - start < question.forMs; index += 1) {
    await sleep(Math.max(0, start + index * question.everyMs - performance.now()));
    const sent = performance.now();
    const status = await ask(question);
    if (status !== 200) throw new Error(`answered ${status}`);
    times.push(performance.now() - sent);
  }
  return { p50: percentile(times, 0.5), p99: percentile(times, 0.99), answered: times.length };
});

function ask({ url, path, token, body }: Question): Promise<number> {
  return new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json", authorization: `Bearer ${token}`, "content-length": Buffer.byteLength(body) };
    const request = httpRequest(url + path, { method: "POST", agent, headers }, (response) => {
      response.resume().on("end", () => resolve(response.statusCode ?? 0));
    });
    request.on("error", reject).end(body);
  });
}
