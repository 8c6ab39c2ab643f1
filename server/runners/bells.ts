/** Wakes whoever waits for something of one session to change. Waiters read the table; a bell carries nothing. */
export type Bells = {
  /** Resolves at the next ring of the session, after `milliseconds`, or when `signal` aborts. */
  wait(sessionId: string, milliseconds: number, signal: AbortSignal): Promise<void>;
  /** `undefined` rings all. */
  ring(sessionId: string | undefined): void;
};

export function createBells(): Bells {
  const waiters = new Map<string, Set<() => void>>();
  return {
    wait(sessionId, milliseconds, signal) {
      return new Promise((resolve) => {
        const mine = waiters.get(sessionId) ?? new Set();
        waiters.set(sessionId, mine);
        const done = () => {
          clearTimeout(timer);
          signal.removeEventListener("abort", done);
          mine.delete(done);
          if (mine.size === 0 && waiters.get(sessionId) === mine) waiters.delete(sessionId);
          resolve();
        };
        const timer = setTimeout(done, milliseconds);
        mine.add(done);
        signal.addEventListener("abort", done, { once: true });
        if (signal.aborted) done();
      });
    },
    ring(sessionId) {
      const rung = sessionId === undefined ? [...waiters.values()] : [waiters.get(sessionId)];
      for (const set of rung) for (const done of [...(set ?? [])]) done();
    },
  };
}
