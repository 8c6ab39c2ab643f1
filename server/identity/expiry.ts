import type { Principal } from "./principal.ts";
import { unauthenticated } from "./refusals.ts";

/** How long an open stream outlives its token, so that a client can come back with a new one in its own time. */
const GRACE_MS = 60_000;
/** The longest a timer of Node waits; a longer one would fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * Aborts when `signal` does, or 60 s after the principal's token expired, then with the UNAUTHENTICATED refusal as its
 * reason. `signal` must abort when the stream ends in any way: that also stops the timer. `now` in ms.
 */
export function untilExpiry(principal: Principal, signal: AbortSignal, now: () => number = Date.now): AbortSignal {
  const expiry = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const wait = (): void => {
    const left = principal.expiresAt + GRACE_MS - now();
    if (left <= 0) expiry.abort(unauthenticated("expired"));
    else timer = setTimeout(wait, Math.min(left, MAX_TIMER_MS)).unref();
  };
  if (!signal.aborted) {
    signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
    wait();
  }
  return AbortSignal.any([signal, expiry.signal]);
}
