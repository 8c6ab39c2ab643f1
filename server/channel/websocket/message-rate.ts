/** Counts messages so that no span of one second ever holds more than the limit. */
export type MessageRate = {
  /** 0 when a message may pass now, else the milliseconds until one may. Refused ones do not count. */
  admit(now: number): number;
  /** How long messages have been refused without a whole second's peace, milliseconds. */
  floodedFor(now: number): number;
};

const spanMs = 1_000;

export function createMessageRate(limit: number): MessageRate {
  // The times of the last `limit` messages, in a ring: its oldest says whether one more fits.
  const times = new Float64Array(limit).fill(Number.NEGATIVE_INFINITY);
  let next = 0;
  let floodSince = 0;
  let lastRefused = Number.NEGATIVE_INFINITY;
  return {
    admit(now) {
      const free = (times[next] ?? 0) + spanMs;
      if (now >= free) {
        times[next] = now;
        next = (next + 1) % limit;
        return 0;
      }
      if (now - lastRefused > spanMs) floodSince = now;
      lastRefused = now;
      return free - now;
    },
    floodedFor: (now) => (now - lastRefused > spanMs ? 0 : lastRefused - floodSince),
  };
}
