// Watchers of sessions (server/journal/feed.ts): each follows a log by the number of the last event it has seen, through one
// control plane after another.
import type { ControlPlane, Reader } from "./journal.ts";
import { createGate, type Task } from "./scheduler.ts";
import { createStream, cut, follow, type Stream, send } from "./streams.ts";
import type { LoggedEvent } from "./tables.ts";
import { people, sleep, times, transaction, type World, waitAt } from "./world.ts";

export type Watcher = { session: string; lastSeen: number };

export function startWatching(world: World, session: string): void {
  const watcher: Watcher = { session, lastSeen: 0 };
  world.checker.watches(watcher);
  world.scheduler.spawn(people, watch(world, watcher));
}

function* watch(world: World, watcher: Watcher): Task {
  for (;;) {
    const plane = world.random.pick(world.controlPlanes);
    const stream = createStream<LoggedEvent>();
    const after = world.rules.resumeAfter(watcher.lastSeen);
    follow(
      world,
      plane.process,
      stream,
      () => serve(world, plane, watcher.session, after, stream),
      () => undefined,
    );
    while (!stream.isCut) {
      yield* waitAt(world, stream.gate, 2 * times.keepAliveMs);
      for (const event of stream.received.splice(0)) world.checker.seen(watcher, event);
      if (world.random.chance(world.faults.streamCut)) break;
    }
    cut(stream);
    yield sleep(world, 50);
  }
}

/** The control plane's side: what it was handed, where that follows on; else what the table has. */
function* serve(world: World, plane: ControlPlane, session: string, after: number, stream: Stream<LoggedEvent>): Task {
  const reader: Reader = { handed: [], gate: createGate() };
  const { readers } = plane.memory;
  const mine = readers.get(session) ?? new Set();
  readers.set(session, mine.add(reader));
  let cursor = after;
  for (let isBehind = true; !stream.isCut; ) {
    const handed = reader.handed.splice(0).filter(({ seq }) => seq > cursor);
    const follows = handed.length > 0 && handed.every(({ seq }, index) => seq === cursor + 1 + index);
    if (follows) world.checker.reach("watcher was handed events");
    const events: LoggedEvent[] = follows ? handed : isBehind || handed.length > 0 ? yield* readLog(world, session, cursor) : [];
    for (const event of events) send(world, plane.process, stream, event, false);
    cursor = events.at(-1)?.seq ?? cursor;
    // An empty read says that there is no more, and so does a keep-alive without any.
    isBehind = !follows && events.length > 0;
    if (!isBehind && reader.handed.length === 0) {
      yield* waitAt(world, reader.gate, times.keepAliveMs);
      isBehind = reader.handed.length === 0;
    }
  }
  mine.delete(reader);
}

const page = 20;

function* readLog(world: World, session: string, after: number): Task<LoggedEvent[]> {
  return (yield transaction(world, () => {
    const log = world.store.sessions.get(session)?.log ?? [];
    return { value: log.slice(after, after + page), changes: [] };
  })) as LoggedEvent[];
}
