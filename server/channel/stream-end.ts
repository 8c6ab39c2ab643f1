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
  of(items: AsyncGenerator<T>): AsyncGenerator<T>;
  /** The same for what the stream gives its reader past the generator. */
  past(deliver: Deliver<T>): (items: readonly T[]) => Promise<readonly T[]>;
};

export function createStreamEnd<T>({ stalledMs, placeOf, from }: StreamEndOptions<T>): StreamEnd<T> {
  let place = from;
  const tooSlow = new AbortController();
  const reached = (items: readonly T[]): void => {
    place = items.map(placeOf).findLast((one) => one !== undefined) ?? place;
  };
  const refuseSlow = (): void => {
    if (tooSlow.signal.aborted) throw resumable(ErrorReason.READER_TOO_SLOW, "you read too slowly: watch again after resume_after", place);
  };
  async function* guarded(items: AsyncGenerator<T>): AsyncGenerator<T> {
    for await (const item of items) {
      reached([item]);
      // It waits where it handed an item over, so returning it frees what it holds at once.
      const timer = setTimeout(() => {
        tooSlow.abort();
        void items.return(undefined);
      }, stalledMs);
      try {
        yield item;
      } finally {
        clearTimeout(timer);
      }
      refuseSlow();
    }
  }
  return {
    async *of(items) {
      try {
        yield* guarded(items);
      } catch (error) {
        if (reasonOf(error) !== ErrorReason.SHUTTING_DOWN) throw error;
        throw resumable(ErrorReason.SHUTTING_DOWN, "this server is shutting down: watch again after resume_after", place);
      }
    },
    past: (deliver) => async (items) => {
      const timer = setTimeout(() => tooSlow.abort(), stalledMs);
      const left = await deliver(items, tooSlow.signal).finally(() => clearTimeout(timer));
      reached(items.slice(0, items.length - left.length));
      refuseSlow();
      return left;
    },
  };
}

function resumable(reason: ErrorReason, message: string, place: number) {
  return refusal(reason, message, { resume_after: String(place) });
}
