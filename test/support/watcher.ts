/** A client that watches a session through every interruption, as design D4 promises it can. */
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Delta, Event, EventPayload } from "../../gen/carrel/v1/event_pb.ts";
import type { Person } from "./person.ts";

export type Kind = NonNullable<EventPayload["kind"]["case"]>;
type ValueOf<K extends Kind> = Extract<EventPayload["kind"], { case: K }>["value"];

export type Watcher = {
  /** As delivered, across all reconnections. */
  readonly events: readonly Event[];
  readonly deltas: readonly Delta[];
  /** The codes that streams ended with before the watcher came back. */
  readonly breaks: readonly Code[];
  /** How often `synced` came, per stream. */
  readonly synced: readonly number[];
  /** The first event that satisfies `test` from `from` (an index of `events`) on. Rejects after `milliseconds`, with what there was. */
  until(test: (event: Event) => boolean, milliseconds?: number, from?: number): Promise<Event>;
  untilKind<K extends Kind>(kind: K, test?: (value: ValueOf<K>) => boolean, milliseconds?: number, from?: number): Promise<ValueOf<K>>;
  /** Resolves when the stream has ended by itself, after `session_end`. */
  ended(milliseconds?: number): Promise<void>;
  stop(): Promise<void>;
};

/** Refusals that no repetition changes. */
const final = new Set([Code.NotFound, Code.Unauthenticated, Code.PermissionDenied, Code.InvalidArgument, Code.Unimplemented]);

export function watch(person: Person, sessionId: string, options: { afterSeq?: number; includeDeltas?: boolean } = {}): Watcher {
  const events: Event[] = [];
  const deltas: Delta[] = [];
  const breaks: Code[] = [];
  const synced: number[] = [];
  const stopping = new AbortController();
  const waiters = new Set<() => void>();
  let cursor = options.afterSeq ?? 0;
  let failure: unknown;
  let over = false;

  const stream = async (): Promise<void> => {
    let marks = 0;
    for await (const { item } of person.channel.watchEvents(
      { sessionId, afterSeq: cursor, includeDeltas: options.includeDeltas ?? false },
      { signal: stopping.signal },
    )) {
      if (item.case === "synced") synced.push(++marks);
      if (item.case === "delta") deltas.push(item.value);
      if (item.case !== "event") continue;
      if (item.value.seq !== cursor + 1) throw new Error(`event ${item.value.seq} came after ${cursor}`);
      cursor = item.value.seq;
      events.push(item.value);
      for (const wake of waiters) wake();
    }
  };
  const run = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      try {
        await stream();
        if (events.at(-1)?.payload?.kind.case === "sessionEnd") return;
        breaks.push(Code.Unavailable);
      } catch (error) {
        if (!(error instanceof ConnectError) || final.has(error.code)) throw error;
        if (!stopping.signal.aborted) breaks.push(error.code);
      }
      await sleep(50);
    }
  };
  const running = run()
    .catch((error: unknown) => {
      failure = error;
    })
    .finally(() => {
      over = true;
      for (const wake of waiters) wake();
    });

  const settle = <T>(look: () => T | undefined, milliseconds: number): Promise<T> =>
    new Promise((resolve, reject) => {
      const told = new Error(`not seen within ${milliseconds} ms`);
      const done = (): void => {
        clearTimeout(timer);
        waiters.delete(check);
      };
      const check = (): void => {
        const found = look();
        if (found !== undefined) resolve(found);
        else if (over) reject(failure ?? new Error(`the watch ended without it: ${kindsOf(events).join(" ")}`));
        else return;
        done();
      };
      const timer = setTimeout(() => {
        done();
        told.message += `: ${kindsOf(events).join(" ")}`;
        reject(told);
      }, milliseconds);
      waiters.add(check);
      check();
    });

  return {
    events,
    deltas,
    breaks,
    synced,
    until: (test, milliseconds = 20_000, from = 0) => settle(() => events.slice(from).find(test), milliseconds),
    async untilKind(kind, test = () => true, milliseconds = 20_000, from = 0) {
      const isIt = (event: Event) => event.payload?.kind.case === kind && test(event.payload.kind.value as never);
      const found = await settle(() => events.slice(from).find(isIt), milliseconds);
      return found.payload!.kind.value as never;
    },
    async ended(milliseconds = 20_000) {
      await settle(
        () => (over && failure === undefined && events.at(-1)?.payload?.kind.case === "sessionEnd" ? true : undefined),
        milliseconds,
      );
    },
    async stop() {
      stopping.abort();
      await running;
    },
  };
}

export function kindsOf(events: readonly Event[]): string[] {
  return events.map((event) => event.payload?.kind.case ?? "?");
}

/** The values of one kind, in order. */
export function ofKind<K extends Kind>(events: readonly Event[], kind: K): ValueOf<K>[] {
  return events.flatMap((event) => (event.payload?.kind.case === kind ? [event.payload.kind.value as ValueOf<K>] : []));
}
