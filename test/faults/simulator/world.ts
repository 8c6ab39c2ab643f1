// The simulated world: what there is besides the programs. Postgres, the object store, the model provider, boxes with their
// sandboxes, the network between them, and what fails in all of these.
import { type Checker, createChecker } from "./checker.ts";
import { type Faults, noFaults } from "./faults.ts";
import type { ControlPlane } from "./journal.ts";
import { createRandom, type Random } from "./random.ts";
import type { Rules } from "./rules.ts";
import {
  createProcess,
  createScheduler,
  type Effect,
  type Gate,
  kill,
  type Process,
  Refusal,
  type Scheduler,
  type Task,
} from "./scheduler.ts";
import { type Change, type EventKind, type Row, type Store, write } from "./tables.ts";

/** Shorter than in production and in the same proportions, milliseconds: more happens in a schedule. */
export const times = {
  heartbeatMs: 3_000,
  staleMs: 9_000,
  startupTimeoutMs: 12_000,
  endGraceMs: 4_000,
  archiveTimeoutMs: 15_000,
  restartWindowMs: 60_000,
  maxRestarts: 3,
  idleMs: 6_000,
  intervalMs: 1_000,
  blindMs: 2_000,
  reconnectMs: 9_000,
  maxSessionMs: 400_000,
  keepAliveMs: 3_000,
  settleMs: 1_000,
  retentionMs: 200_000,
  unansweredMs: 4_000,
  sweepMs: 7_000,
  callTimeoutMs: 2_500,
};

/** What it takes for a session to be parked. No time: a schedule is too short for that. */
export const tries = { stepTries: 3, parkAfterMs: 0 };

export type SpooledEvent = { kind: EventKind; about: string; saidIn: number };
export type Sandbox = {
  id: number;
  box: Box;
  /** The epoch it was started for. */
  run: number;
  process: Process;
  /** Ended, and not quite dead yet: what it says must not count any more. */
  isLingering: boolean;
};
/** What was said and not acknowledged: a file that outlives the process that writes it. */
export type Spool = { epoch: number; firstSeq: number; events: SpooledEvent[] };

export function emptySpool(epoch: number): Spool {
  return { epoch, firstSeq: 1, events: [] };
}

/** A sandbox's files: `files` is what is in them, as a number that changes with every change. */
export type Box = { id: string; host: number; files: number; spool: Spool; isRemoved: boolean };
export type Blob = {
  archive: string;
  session: string;
  generation: number;
  files: number;
  isWhole: boolean;
  isDamaged: boolean;
  madeAtMs: number;
};
export const halfUnpacked = -1;

export type World = {
  readonly random: Random;
  readonly scheduler: Scheduler;
  readonly rules: Rules;
  readonly store: Store;
  readonly boxes: Map<string, Box>;
  readonly sandboxes: Map<number, Sandbox>;
  readonly blobs: Map<string, Blob>;
  readonly controlPlanes: ControlPlane[];
  /** By host, until when its machine neither starts nor ends a sandbox. */
  readonly brokenUntil: Map<number, number>;
  readonly checker: Checker;
  faults: Faults;
  /** Nothing fails in this schedule. */
  isCalm: boolean;
  lastId: number;
  readonly onChange: OnChange | undefined;
};

/** Told of each change of a session when it is committed, for who looks at a schedule. */
export type OnChange = (before: Row, change: Change, atMs: number) => void;

export function createWorld(seed: number, rules: Rules, onChange?: OnChange): World {
  const random = createRandom(seed);
  const scheduler = createScheduler(random, (process) => {
    if (process !== people && random.chance(process.name.startsWith("control-plane") ? world.faults.crash : 4 * world.faults.crash)) {
      world.checker.reach(`fault: crash of a ${kindOf(process)}`);
      kill(process);
    }
  });
  const world: World = {
    random,
    scheduler,
    rules,
    store: { sessions: new Map(), requestIds: new Map(), awayUntil: 0 },
    boxes: new Map(),
    sandboxes: new Map(),
    blobs: new Map(),
    controlPlanes: [],
    brokenUntil: new Map(),
    checker: undefined as unknown as Checker,
    faults: noFaults,
    isCalm: true,
    lastId: 0,
    onChange,
  };
  Object.assign(world, { checker: createChecker(world) });
  return world;
}

/** Everybody outside: they are not what is tested, so they neither crash nor stop. */
export const people: Process = createProcess("people");

function kindOf({ name }: Process): string {
  return name.replace(/ .*/, "");
}

export function newId(world: World, prefix: string): string {
  world.lastId += 1;
  return `${prefix}${world.lastId}`;
}

export function newNumber(world: World): number {
  world.lastId += 1;
  return world.lastId;
}

/** Mostly fast; sometimes slow enough that others are faster, or that the caller has given up. */
export function latency(world: World): number {
  const { random, faults } = world;
  if (random.chance(faults.delay)) {
    world.checker.reach("fault: delay");
    return random.between(200, 6_000);
  }
  return 1 + random.next() * 12;
}

export function sleep(world: World, milliseconds: number): Effect {
  return (thread, ticket) => world.scheduler.resume(thread, ticket, milliseconds);
}

/** Something that a process does by itself: it is done if the process is still there, and not before it goes on. */
export function* act<T>(world: World, work: () => T): Task<T> {
  yield sleep(world, latency(world));
  return work();
}

export const unavailable = "UNAVAILABLE";

/** What a transaction answers and writes. */
export type Work<T> = { value: T; changes: readonly Change[]; also?: () => void };

/**
 * One transaction. It fails before its commit or after it, and the caller cannot tell which; who dies meanwhile may have
 * committed or not. `body` returns the changes to write with its value; what it refuses is not written.
 */
export function transaction<T>(world: World, body: () => Work<T>): Effect {
  const { scheduler, store, random } = world;
  return (thread, ticket) => {
    const delay = latency(world);
    scheduler.at(delay, () => {
      const fail = (fault: string) => {
        world.checker.reach(`fault: ${fault}`);
        scheduler.resume(thread, ticket, latency(world), undefined, new Refusal(unavailable));
      };
      // A commit that was under way when its process died; nothing of a dead process comes later than that.
      if (!thread.process.alive && (delay > 50 || random.chance(0.5))) return;
      if (store.awayUntil > scheduler.now) return fail("Postgres restarts");
      if (random.chance(world.faults.storageBefore)) return fail("storage fails before the commit");
      let done: Work<T>;
      try {
        done = body();
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        return scheduler.resume(thread, ticket, latency(world), undefined, error);
      }
      if (random.chance(world.faults.storageBefore)) return fail("storage fails at the commit");
      for (const change of done.changes) commit(world, change);
      done.also?.();
      if (random.chance(world.faults.storageAfter)) return fail("storage fails after the commit");
      scheduler.resume(thread, ticket, latency(world), done.value);
    });
  };
}

function commit(world: World, change: Change): void {
  const before = change.tables.row;
  write(change);
  world.checker.committed(before, change);
}

export function databaseNow(world: World): Date {
  return new Date(world.scheduler.now);
}

/** A call over the network: it may be lost, late, or made twice, and its answer may be lost. */
export function call<T>(world: World, target: () => Process | undefined, handler: () => Task<T>, timeoutMs = times.callTimeoutMs): Effect {
  const { scheduler, random, faults, checker } = world;
  return (thread, ticket) => {
    const fail = () => scheduler.resume(thread, ticket, 0, undefined, new Refusal(unavailable));
    scheduler.resume(thread, ticket, timeoutMs, undefined, new Refusal(unavailable));
    const deliver = () => {
      const process = target();
      if (!process?.alive) return fail();
      const answer = (value: unknown, error?: Error) => {
        if (random.chance(world.faults.loss)) return checker.reach("fault: loss of an answer");
        scheduler.resume(thread, ticket, latency(world), value, error);
      };
      scheduler.spawn(process, handler(), answer, (error) => answer(undefined, error));
    };
    if (random.chance(faults.loss)) return checker.reach("fault: loss of a call");
    scheduler.at(latency(world), deliver);
    if (random.chance(faults.duplication)) {
      checker.reach("fault: duplication of a call");
      scheduler.at(latency(world) * 20, deliver);
    }
  };
}

/** Tries until it is answered; only what no repetition can change is thrown. */
export function* persistently<T>(world: World, attempt: () => Effect): Task<T> {
  for (let pauseMs = 25; ; pauseMs = Math.min(pauseMs * 2, 1_000)) {
    try {
      return (yield attempt()) as T;
    } catch (error) {
      if (!(error instanceof Refusal) || error.reason !== unavailable) throw error;
      yield sleep(world, pauseMs * (0.5 + world.random.next() / 2));
    }
  }
}

/** The same for work of several effects, whatever it is refused. */
export function* untilItWorks<T>(world: World, work: () => Task<T>): Task<T> {
  for (;;) {
    try {
      return yield* work();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      yield sleep(world, 500);
    }
  }
}

/** Asks the database for the sessions of which `isMeant` is true. */
export function readTables(world: World, isMeant: (row: Row) => boolean): Effect {
  return transaction(world, () => {
    const value: string[] = [];
    for (const { row } of world.store.sessions.values()) if (isMeant(row)) value.push(row.id);
    return { value, changes: [] };
  });
}

/** Waits until something is told; undefined when nothing was for `milliseconds`. */
export function* waitAt<T>(world: World, gate: Gate<T>, milliseconds: number): Task<T | undefined> {
  if (gate.told.length > 0) return gate.told.splice(0)[0];
  const told = (yield (thread, ticket) => {
    gate.waiting = (value) => world.scheduler.resume(thread, ticket, 0, value);
    if (milliseconds < Number.POSITIVE_INFINITY) world.scheduler.resume(thread, ticket, milliseconds);
  }) as T | undefined;
  gate.waiting = undefined;
  return told;
}
