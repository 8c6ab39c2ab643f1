/** How waits between tries grow. */
export type Backoff = {
  /** The longest wait before the second try, in milliseconds. Default 250. */
  firstDelayMs?: number;
  /** No wait is longer, in milliseconds, unless the server asks for it. Default 10,000. */
  maxDelayMs?: number;
};

/**
 * The wait before try `attempt` (from 1): doubling, and anywhere in its upper half, so that the clients of a server that
 * comes back do not all arrive at once.
 */
export function delayBefore(attempt: number, { firstDelayMs = 250, maxDelayMs = 10_000 }: Backoff): number {
  const longest = Math.min(maxDelayMs, firstDelayMs * 2 ** Math.min(attempt - 1, 30));
  return longest * (0.5 + Math.random() / 2);
}

/** Resolves after `ms`, or at once when `signal` aborts. Never rejects. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const finish = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", finish);
      resolve();
    };
    const timer = setTimeout(finish, ms);
    signal?.addEventListener("abort", finish, { once: true });
  });
}
