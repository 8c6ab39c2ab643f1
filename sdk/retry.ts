import { type Backoff, delayBefore, pause } from "./backoff.ts";
import { mayPass, retryAfterMsOf } from "./errors.ts";

export type RetryOptions = Backoff & {
  /** Tries in all. Default 5. */
  tries?: number;
  signal?: AbortSignal;
};

/**
 * Makes a call again while its failure may pass. The call must be safe to repeat: one without effects, or one that carries
 * the same `requestId` each time.
 */
export async function retrying<T>(call: () => Promise<T>, options: RetryOptions = {}): Promise<T> {
  const { tries = 5, signal } = options;
  for (let attempt = 1; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      if (attempt >= tries || signal?.aborted || !mayPass(error)) throw error;
      await pause(retryAfterMsOf(error) ?? delayBefore(attempt, options), signal);
    }
  }
}
