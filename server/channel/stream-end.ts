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
export async function* endingWell<T>(items: AsyncGenerator<T>, { stalledMs, placeOf, from }: StreamEnd<T>): AsyncGenerator<T> {
  let place = from;
  let tooSlow = false;
  const letGo = (): void => {
    tooSlow = true;
    // It waits where it handed an item over, so this frees what it holds at once.
    void items.return(undefined);
  };
  try {
    for await (const item of items) {
      place = placeOf(item) ?? place;
      const timer = setTimeout(letGo, stalledMs);
      try {
        yield item;
      } finally {
        clearTimeout(timer);
      }
      if (tooSlow) throw resumable(ErrorReason.READER_TOO_SLOW, "you read too slowly: watch again after resume_after", place);
    }
  } catch (error) {
    if (reasonOf(error) !== ErrorReason.SHUTTING_DOWN) throw error;
    throw resumable(ErrorReason.SHUTTING_DOWN, "this server is shutting down: watch again after resume_after", place);
  }
}

function resumable(reason: ErrorReason, message: string, place: number) {
  return refusal(reason, message, { resume_after: String(place) });
}
