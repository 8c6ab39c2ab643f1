import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { reasonOf, refusal } from "../errors.ts";

export type StreamEnd<T> = {
  /** How long a reader may take nothing at all, milliseconds. */
  stalledMs: number;
  /** Where a reader who has this item goes on; undefined for one that is no place. */
  placeOf(item: T): number | undefined;
  /** Where it goes on when it has none. */
  from: number;
};

/**
 * Passes a stream on, and gives its reader a good end. One who takes nothing for too long is let go: nothing is kept for it
 * from then on, and it finds READER_TOO_SLOW behind what was written. That and SHUTTING_DOWN say where to resume.
 */
export function endingWell<T>(items: AsyncGenerator<T>, { stalledMs, placeOf, from }: StreamEnd<T>): AsyncIterableIterator<T> {
  let place = from;
  const stall = createStall(stalledMs, () => void items.return(undefined));
  const taken = (result: IteratorResult<T>): IteratorResult<T> => {
    if (result.done) stall.stop();
    else place = placeOf(result.value) ?? place;
    stall.handedOver();
    return result;
  };
  const failed = (error: unknown): never => {
    stall.stop();
    if (reasonOf(error) !== ErrorReason.SHUTTING_DOWN) throw error;
    throw resumable(ErrorReason.SHUTTING_DOWN, "this server is shutting down: watch again after resume_after", place);
  };
  // Written out, because a generator around the generator would take every item through three more asynchronous steps.
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    next() {
      stall.asked();
      if (!stall.over()) return items.next().then(taken, failed);
      return Promise.reject(resumable(ErrorReason.READER_TOO_SLOW, "you read too slowly: watch again after resume_after", place));
    },
    return() {
      stall.stop();
      return items.return(undefined);
    },
  };
}

/** Calls `onStall` when what was handed over is not followed by a question for more. One timer, however many items pass. */
function createStall(stalledMs: number, onStall: () => void) {
  let since = Number.POSITIVE_INFINITY;
  let over = false;
  let timer: NodeJS.Timeout | undefined;
  const check = (): void => {
    const left = since + stalledMs - performance.now();
    over = left <= 0;
    if (over) onStall();
    else timer = setTimeout(check, Math.min(left, stalledMs)).unref();
  };
  timer = setTimeout(check, stalledMs).unref();
  return {
    handedOver: () => void (since = performance.now()),
    asked: () => void (since = Number.POSITIVE_INFINITY),
    over: () => over,
    stop: () => clearTimeout(timer),
  };
}

function resumable(reason: ErrorReason, message: string, place: number) {
  return refusal(reason, message, { resume_after: String(place) });
}
