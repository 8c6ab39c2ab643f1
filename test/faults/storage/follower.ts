// A reader inside the process, which begins anew where it was whenever its stream breaks.
import type { Event } from "../../../gen/carrel/v1/event_pb.ts";
import type { JournalCore } from "../../support/journal-core.ts";

export type Follower = { events: readonly Event[] /** Reads on to this number and stops. */; until(seq: number): Promise<void> };

export function follow(core: JournalCore, sessionId: string): Follower {
  const events: Event[] = [];
  let stopping = new AbortController();
  const read = async (enough: () => boolean): Promise<void> => {
    const options = { ownerId: core.ownerId, sessionId, afterSeq: events.length, includeDeltas: false, signal: stopping.signal };
    for await (const { item } of core.reader.watch(options)) {
      if (item.case === "event") events.push(item.value);
      if (enough()) return;
    }
  };
  const readOn = async (enough: () => boolean): Promise<void> => {
    // A stream that broke, for whatever reason, is begun again.
    while (!stopping.signal.aborted && !enough()) await read(enough).catch(() => undefined);
  };
  const reading = readOn(() => false);
  return {
    events,
    async until(seq) {
      stopping.abort();
      await reading;
      // As somebody would who comes back: what was not rung is in the table.
      stopping = new AbortController();
      await readOn(() => events.length >= seq);
    },
  };
}
