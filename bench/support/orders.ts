import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { SessionStatus } from "../../gen/carrel/v1/session_pb.ts";
import { bundleForSandbox } from "../../setup/runner.ts";
import type { Carrel } from "./carrel.ts";

/** What the fake runner is told, as the text of a prompt. It stops at whichever bound comes first. */
export type Order = { batches: number; forMs: number; batchEvents: number; payloadBytes: number };

/** What it did, as the summary of its turn; times in milliseconds since 1970. */
export type Appended = { events: number; startedAt: number; endedAt: number };

const patienceMs = 60_000;

/** The fake runner as the one file that sandboxes are shown. */
export function buildFakeRunner(directory: string): Promise<string> {
  return bundleForSandbox(new URL("../programs/fake-runner.ts", import.meta.url).pathname, join(directory, "fake-runner.cjs"));
}

/** A session whose runner waits for orders. */
export async function startOrderly(carrel: Carrel): Promise<string> {
  const { id } = await carrel.createSession();
  await until(async () => (await carrel.client.sessions.getSession({ sessionId: id })).session?.status === SessionStatus.RUNNING);
  return id;
}

/** Gives the order and waits for its end. Nobody watches: what was done is read from the end of the log. */
export async function give(carrel: Carrel, sessionId: string, order: Order): Promise<Appended> {
  const { channel, sessions } = carrel.client;
  const { seq } = await channel.sendPrompt({ sessionId, text: JSON.stringify(order) });
  let appended: Appended | undefined;
  await until(async () => {
    const lastSeq = (await sessions.getSession({ sessionId })).session?.lastSeq ?? 0;
    const { events } = await channel.listEvents({ sessionId, afterSeq: Math.max(seq, lastSeq - 4) });
    for (const { payload } of events) if (payload?.kind.case === "result") appended = JSON.parse(payload.kind.value.summary) as Appended;
    return appended !== undefined;
  });
  return appended!;
}

async function until(done: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!(await done())) {
    if (performance.now() > deadline) throw new Error(`waited in vain for ${patienceMs} ms`);
    await sleep(200);
  }
}
