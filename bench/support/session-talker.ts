import { setTimeout as sleep } from "node:timers/promises";
import { DeltaKind } from "../../gen/carrel/v1/event_pb.ts";
import { SessionStatus } from "../../gen/carrel/v1/session_pb.ts";
import type { Carrel as Client } from "../../sdk/node.ts";
import { stampsIn } from "./model.ts";
import { createTurns, type Talker } from "./talker.ts";

const endMs = 20_000;

/** A new session as a talker; it ends with it. */
export async function startSessionTalker(client: Client): Promise<Talker> {
  const { session } = await client.sessions.createSession({});
  const sessionId = session!.id;
  const turns = createTurns(async (text) => void (await client.channel.sendPrompt({ sessionId, text })));
  const leaving = new AbortController();
  const follow = async (): Promise<void> => {
    for await (const { item } of client.channel.watchEvents({ sessionId, includeDeltas: true }, { signal: leaving.signal })) {
      const seenAt = performance.now();
      if (item.case === "delta" && item.value.kind === DeltaKind.TEXT) turns.seen(stampsIn(item.value.text), seenAt);
      if (item.case === "event" && item.value.payload?.kind.case === "result") turns.ended();
    }
    throw new Error("the session ended");
  };
  const following = follow().catch((error: Error) => turns.failed(error));
  return {
    turn: turns.turn,
    async close() {
      leaving.abort();
      await following;
      await terminate(client, sessionId);
    },
  };
}

/** Resolves when the session has ended. */
export async function terminate(client: Client, sessionId: string): Promise<void> {
  await client.sessions.terminateSession({ sessionId });
  const deadline = performance.now() + endMs;
  while (performance.now() < deadline) {
    const { session } = await client.sessions.getSession({ sessionId });
    if (session?.status === SessionStatus.ENDED) return;
    await sleep(20);
  }
  throw new Error(`${sessionId} did not end in ${endMs} ms`);
}
