import { setTimeout as sleep } from "node:timers/promises";

/** A server that is killed again and again is up for moments only, and on a busy machine it takes seconds to come back. */
const patienceMs = 60_000;

/** What a careful client does with a call that got no answer. Only for calls that may be repeated. */
export async function repeated<T>(call: () => Promise<T>): Promise<T> {
  const giveUpAt = Date.now() + patienceMs;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (Date.now() > giveUpAt) throw error;
      await sleep(50);
    }
  }
}
