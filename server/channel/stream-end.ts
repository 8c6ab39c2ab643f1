import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { reasonOf, refusal } from "../errors.ts";

export type StreamEndOptions<T> = {
  /** How long a reader may take nothing at all, milliseconds. */
  stalledMs: number;
  /** Where a reader who has this item goes on; undefined for one that is no place. */
  placeOf(item: T): number | undefined;
  /** Where it goes on when it has none. */
  from: number;
};

/** A shorter way to a reader than yielding. Resolves with what it left; at the latest when `signal` aborts. */
export type Deliver<T> = (items: readonly T[], signal: AbortSignal) => Promise<readonly T[]>;

/**
 * Gives the reader of one stream a good end. One who takes nothing for too long is let go: nothing is kept for it from then
 * on, and it finds READER_TOO_SLOW behind what was written. That and SHUTTING_DOWN say where to resume.
 */
export type StreamEnd<T> = {
  /** Passes the stream on, up to its end. */
  of(items: AsyncGenerator<T>): AsyncIterableIterator<T>;
  /** The same for what the stream gives its reader past the generator. */
  past(deliver: Deliver<T>): (items: readonly T[]) => Promise<readonly T[]>;
};

export function createStreamEnd<T>({ stalledMs, placeOf, from }: StreamEndOptions<T>): StreamEnd<T> {
  let place = from;
  let stream: AsyncGenerator<T> | undefined;
  const stalled = new AbortController();
  const stall = createStall(stalledMs, () => {
    stalled.abort();
    void stream?.return(undefined);
  });
  const tooSlow = () => resumable(ErrorReason.READER_TOO_SLOW, "you read too slowly: watch again after resume_after", place);
  const reached = (items: readonly T[]): void => {
    const last = items.findLast((item) => placeOf(item) !== undefined);
    if (last !== undefined) place = placeOf(last)!;
  };
  const taken = (result: IteratorResult<T>): IteratorResult<T> => {
    if (result.done) stall.stop();
    else reached([result.value]);
    stall.handedOver();
    return result;
  };
  const failed = (error: unknown): never => {
    stall.stop();
    if (reasonOf(error) !== ErrorReason.SHUTTING_DOWN) throw error;
    throw resumable(ErrorReason.SHUTTING_DOWN, "this server is shutting down: watch again after resume_after", place);
  };
  return {
    // Written out, because a generator around the generator would take every item through three more asynchronous steps.
    of(items) {
      stream = items;
      return {
        [Symbol.asyncIterator]() {
          return this;
        },
        next() {
          stall.asked();
          return stalled.signal.aborted ? Promise.reject(tooSlow()) : items.next().then(taken, failed);
        },
        return() {
          stall.stop();
          return items.return(undefined);
        },
      };
    },
    past: (deliver) => async (items) => {
      stall.handedOver();
      const left = await deliver(items, stalled.signal);
      stall.asked();
      reached(items.slice(0, items.length - left.length));
      if (stalled.signal.aborted) throw tooSlow();
      return left;
    },
  };
}

/** Calls `onStall` when what was handed over is not followed by a question for more. One timer, however many items pass. */
function createStall(stalledMs: number, onStall: () => void) {
  let since = Number.POSITIVE_INFINITY;
  let timer: NodeJS.Timeout | undefined;
  const check = (): void => {
    const left = since + stalledMs - performance.now();
    if (left <= 0) onStall();
    else timer = setTimeout(check, Math.min(left, stalledMs)).unref();
  };
  timer = setTimeout(check, stalledMs).unref();
  return {
    handedOver: () => void (since = performance.now()),
    asked: () => void (since = Number.POSITIVE_INFINITY),
    stop: () => clearTimeout(timer),
  };
}

function resumable(reason: ErrorReason, message: string, place: number) {
  return refusal(reason, message, { resume_after: String(place) });
}
