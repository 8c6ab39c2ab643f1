// The scheduler: virtual time, processes that may be killed or stopped, and threads that run from one effect to the next.
// A thread is a generator. What it yields is an effect, which sees to it that the thread goes on later; between two effects
// of a thread anything may happen to the others, and its process may be gone.
import type { Random } from "./random.ts";

/** Lives until it is killed, and does nothing while it is stopped. A restart is another process. */
export type Process = {
  readonly name: string;
  /** Off from the database's clock, milliseconds. */
  readonly skewMs: number;
  alive: boolean;
  stoppedUntil: number;
  onDeath: (() => void)[];
};

export type Effect = (thread: Thread, ticket: number) => void;
// biome-ignore lint/suspicious/noExplicitAny: what an effect answers is known where it is yielded.
export type Task<T = void> = Generator<Effect, T, any>;

export type Thread = {
  readonly process: Process;
  readonly task: Task<unknown>;
  /** Counts the effects: an answer to an earlier one comes too late. */
  ticket: number;
  readonly done: ((value: unknown) => void) | undefined;
  readonly failed: ((error: Error) => void) | undefined;
};

type Entry = { at: number; order: number; run: () => void };

export type Scheduler = ReturnType<typeof createScheduler>;

/** @param beforeResume may kill the process of a thread that is about to go on. */
export function createScheduler(random: Random, beforeResume: (process: Process) => void) {
  const heap: Entry[] = [];
  /** Looked at again before long: somebody may let it go on sooner. */
  const stoppedFor = ({ stoppedUntil }: Process): number => Math.min(stoppedUntil - scheduler.now, 500) + random.next();
  const scheduler = {
    now: 0,
    /** What somebody has done: neither late answers nor the wait of a stopped process. */
    steps: 0,
    /** Anything that is no answer to a process: the world's own. */
    at(delayMs: number, run: () => void): void {
      push(heap, { at: scheduler.now + Math.max(0, delayMs), order: random.next(), run });
    },
    /** Goes on with a thread, unless its process is gone or it was answered before. */
    resume(thread: Thread, ticket: number, delayMs: number, value?: unknown, error?: Error): void {
      scheduler.at(delayMs, () => {
        const { process } = thread;
        const isStopped = process.stoppedUntil > scheduler.now;
        if (!process.alive || thread.ticket !== ticket || isStopped) {
          scheduler.steps -= 1;
          if (process.alive && isStopped) scheduler.resume(thread, ticket, stoppedFor(process), value, error);
          return;
        }
        beforeResume(process);
        if (process.alive) advance(thread, value, error);
      });
    },
    spawn(process: Process, task: Task<unknown>, done?: (value: unknown) => void, failed?: (error: Error) => void): void {
      const thread: Thread = { process, task, ticket: 0, done, failed };
      scheduler.resume(thread, 0, random.next());
    },
    /** Takes the next step; false when nothing is left to do before `until`. */
    step(until: number): boolean {
      const next = heap[0];
      if (!next || next.at > until) return false;
      pop(heap);
      scheduler.now = next.at;
      scheduler.steps += 1;
      next.run();
      return true;
    },
  };
  return scheduler;
}

function advance(thread: Thread, value: unknown, error: Error | undefined): void {
  thread.ticket += 1;
  let result: IteratorResult<Effect, unknown>;
  try {
    result = error ? thread.task.throw(error) : thread.task.next(value);
  } catch (thrown) {
    if (!thread.failed || !(thrown instanceof Refusal)) throw thrown;
    return thread.failed(thrown);
  }
  if (result.done) thread.done?.(result.value);
  else result.value(thread, thread.ticket);
}

/** What an effect may fail with. Anything else that is thrown is a mistake of the simulator and ends the run. */
export class Refusal extends Error {
  readonly reason: string;
  constructor(reason: string) {
    super(reason);
    this.reason = reason;
  }
}

export function createProcess(name: string, skewMs = 0): Process {
  return { name, skewMs, alive: true, stoppedUntil: 0, onDeath: [] };
}

export function kill(process: Process): void {
  if (!process.alive) return;
  process.alive = false;
  for (const told of process.onDeath) told();
}

/** What one thread waits for and another tells. Told before anybody waits, it is kept. */
export type Gate<T> = { told: T[]; waiting: ((value: T) => void) | undefined };

export function createGate<T>(): Gate<T> {
  return { told: [], waiting: undefined };
}

export function tell<T>(gate: Gate<T>, value: T): void {
  const { waiting } = gate;
  gate.waiting = undefined;
  if (waiting) waiting(value);
  else gate.told.push(value);
}

function push(heap: Entry[], entry: Entry): void {
  let at = heap.push(entry) - 1;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (!isBefore(entry, heap[parent]!)) break;
    heap[at] = heap[parent]!;
    at = parent;
  }
  heap[at] = entry;
}

function pop(heap: Entry[]): void {
  const last = heap.pop()!;
  const size = heap.length;
  if (size === 0) return;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= size) break;
    if (child + 1 < size && isBefore(heap[child + 1]!, heap[child]!)) child += 1;
    if (!isBefore(heap[child]!, last)) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = last;
}

function isBefore(one: Entry, other: Entry): boolean {
  return one.at < other.at || (one.at === other.at && one.order < other.order);
}
