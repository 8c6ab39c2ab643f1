import { createGate, type Gate, type Process, type Refusal, type Task, tell } from "./scheduler.ts";
import { latency, type World } from "./world.ts";

/** Messages of one sender in their order, until the stream is cut: then the rest of them is lost, and both sides find out. */
export type Stream<T> = { readonly received: T[]; readonly gate: Gate<void>; isCut: boolean; lastAt: number };

export function createStream<T>(): Stream<T> {
  return { received: [], gate: createGate(), isCut: false, lastAt: 0 };
}

export function send<T>(world: World, from: Process, stream: Stream<T>, message: T, mayRepeat = true): void {
  const { scheduler, random, faults } = world;
  if (stream.isCut) return;
  if (random.chance(faults.streamCut)) {
    world.checker.reach("fault: a stream is cut");
    return cut(stream);
  }
  stream.lastAt = Math.max(stream.lastAt + 0.001, scheduler.now + latency(world));
  scheduler.at(stream.lastAt - scheduler.now, () => {
    if (stream.isCut || !from.alive) return cut(stream);
    stream.received.push(message);
    if (mayRepeat && random.chance(faults.duplication)) {
      world.checker.reach("fault: duplication of a message");
      stream.received.push(message);
    }
    tell(stream.gate, undefined);
  });
}

export function cut<T>(stream: Stream<T>): void {
  stream.isCut = true;
  tell(stream.gate, undefined);
}

/** Asks a process for a stream, which is cut with it. `refused` is told why it ends, where that is said. */
export function follow<T>(world: World, from: Process, stream: Stream<T>, handler: () => Task, refused: (reason: string) => void): void {
  from.onDeath.push(() => cut(stream));
  if (!from.alive || world.random.chance(world.faults.loss)) return cut(stream);
  world.scheduler.at(latency(world), () => {
    world.scheduler.spawn(
      from,
      handler(),
      () => cut(stream),
      (error) => {
        refused((error as Refusal).reason);
        cut(stream);
      },
    );
  });
}
