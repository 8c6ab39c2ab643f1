import type { Interceptor } from "@connectrpc/connect";
import { principalKey, userKey } from "../identity/principal.ts";

/** Keeps what one person asks at once from taking the server and its database from the others. */
export type FairShare = {
  /** Works at once, or when enough of this person's earlier work is done, in their order. Rejects when `signal` aborts before. */
  run<T>(person: string, signal: AbortSignal, work: () => Promise<T>): Promise<T>;
};

type Waiting = { begin(): void };
type Crowd = { working: number; waiting: Set<Waiting> };

/** @param atOnce how much of one person's work is done at the same time. */
export function createFairShare(atOnce: number): FairShare {
  const crowds = new Map<string, Crowd>();
  const leave = (person: string, crowd: Crowd): void => {
    const [next] = crowd.waiting;
    if (next) {
      crowd.waiting.delete(next);
      return next.begin();
    }
    crowd.working -= 1;
    if (crowd.working === 0) crowds.delete(person);
  };
  return {
    async run(person, signal, work) {
      const crowd = crowds.get(person) ?? { working: 0, waiting: new Set() };
      crowds.set(person, crowd);
      if (crowd.working < atOnce) crowd.working += 1;
      else await turnOf(crowd, signal);
      try {
        return await work();
      } finally {
        leave(person, crowd);
      }
    },
  };
}

/** Resolves when somebody who leaves hands their place on. */
function turnOf({ waiting }: Crowd, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const one = {
      begin() {
        signal.removeEventListener("abort", giveUp);
        resolve();
      },
    };
    const giveUp = (): void => {
      waiting.delete(one);
      reject(signal.reason as Error);
    };
    signal.throwIfAborted();
    signal.addEventListener("abort", giveUp, { once: true });
    waiting.add(one);
  });
}

/** For unary calls, behind the one that says who calls. A stream waits most of its time and is bounded by other limits. */
export function createFairShareInterceptor(share: FairShare): Interceptor {
  return (next) => (request) => {
    const principal = request.contextValues.get(principalKey);
    if (request.stream || !principal) return next(request);
    const person = request.contextValues.get(userKey)?.userId ?? JSON.stringify([principal.issuer, principal.subject]);
    return share.run(person, request.signal, () => next(request));
  };
}
