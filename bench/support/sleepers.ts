import { setTimeout as sleep } from "node:timers/promises";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import { reasonOf } from "../../sdk/node.ts";
import type { Carrel } from "./carrel.ts";

const patienceMs = 60_000;

/** Puts a session away and waits until it is; asks again while its turn is just ending. */
export async function untilDormant({ client }: Carrel, sessionId: string): Promise<void> {
  const deadline = performance.now() + patienceMs;
  let isAsked = false;
  for (;;) {
    const { session } = await client.sessions.getSession({ sessionId });
    if (session?.detail === SessionDetail.DORMANT) return;
    if (performance.now() > deadline) throw new Error(`${sessionId} was not put away in ${patienceMs} ms`);
    if (session?.detail === SessionDetail.IDLE && !isAsked) isAsked = await ask(client, sessionId);
    await sleep(20);
  }
}

async function ask(client: Carrel["client"], sessionId: string): Promise<boolean> {
  try {
    await client.sessions.hibernateSession({ sessionId });
    return true;
  } catch (error) {
    if (reasonOf(error) === ErrorReason.SESSION_BUSY) return false;
    throw error;
  }
}
