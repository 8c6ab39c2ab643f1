// Makes any call of any storage fail, made from the storage's own methods: what is added to a port is covered the day it is.
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

/** `before`: nothing was done. `after`: all was done, and the answer is an error. `hang`: nothing is done, and it takes until a timeout to know. */
export const storageFaults = ["before", "after", "hang"] as const;

export type StorageFault = (typeof storageFaults)[number];

/** Which call fails, and how. Calls are counted from when it is armed. */
export type Plan = {
  /** Every call so far, by its name. */
  readonly calls: readonly string[];
  /** The call of this number (from 0) fails; undefined only counts. */
  arm(fault?: { at: number; how: StorageFault }): void;
  disarm(): void;
  /** What happens to the call that is made now. */
  next(name: string): StorageFault | "none";
};

export function createPlan(): Plan {
  let armed = false;
  let planned: { at: number; how: StorageFault } | undefined;
  let calls: string[] = [];
  return {
    get calls() {
      return calls;
    },
    arm(fault) {
      armed = true;
      planned = fault;
      calls = [];
    },
    disarm: () => void (armed = false),
    next(name) {
      if (!armed) return "none";
      calls.push(name);
      return planned?.at === calls.length - 1 ? planned.how : "none";
    },
  };
}

const timeoutMs = 30;

/** A port whose methods answer a promise or an async iterable. */
export function faulty<T extends object>(port: T, plan: Plan): T {
  return new Proxy(port, {
    get(target, name, receiver) {
      const method: unknown = Reflect.get(target, name, receiver);
      if (typeof method !== "function" || typeof name !== "string") return method;
      return (...args: unknown[]): unknown => {
        const how = plan.next(name);
        if (how === "none") return method.apply(target, args);
        // A call that fails beforehand is never made; whether it would have answered at once or in pieces, its caller waits for both.
        if (how !== "after") return failing(how);
        const answer: unknown = method.apply(target, args);
        return isIterable(answer) ? failingAfter(answer) : (answer as Promise<unknown>).then(() => fail(how));
      };
    },
  });
}

function fail(how: StorageFault): never {
  throw new Error(`the storage failed as planned (${how})`);
}

/** Rejects when it is awaited and throws when it is read. */
function failing(how: StorageFault): Promise<never> & AsyncGenerator<never> {
  const failure = async (): Promise<never> => {
    if (how === "hang") await sleep(timeoutMs);
    return fail(how);
  };
  let promise: Promise<never> | undefined;
  const outcome = () => (promise ??= failure());
  return {
    // biome-ignore lint/suspicious/noThenProperty: it is a promise as well as an iterable
    then: (...args: Parameters<Promise<never>["then"]>) => outcome().then(...args),
    catch: (...args: Parameters<Promise<never>["catch"]>) => outcome().catch(...args),
    finally: (...args: Parameters<Promise<never>["finally"]>) => outcome().finally(...args),
    next: outcome,
    return: async () => ({ done: true, value: undefined }),
    throw: (error: unknown) => Promise.reject(error),
    [Symbol.asyncIterator]() {
      return this;
    },
  } as unknown as Promise<never> & AsyncGenerator<never>;
}

async function* failingAfter(pieces: AsyncIterable<unknown>): AsyncGenerator<unknown> {
  yield* pieces;
  fail("after");
}

function isIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === "object" && value !== null && Symbol.asyncIterator in value;
}

/** pg's client, whose statements fail as planned, as a broken connection or a cancelled statement would make them fail. */
export function faultyClientOf(plan: Plan): typeof pg.Client {
  return class extends pg.Client {
    // biome-ignore lint/suspicious/noExplicitAny: pg declares ten forms of it, of which the pool's users take the promise
    override query(...args: any[]): any {
      const run = (): Promise<unknown> => (super.query as (...all: unknown[]) => Promise<unknown>)(...args);
      const how = plan.next(nameOf(args[0]));
      return how === "none" ? run() : this.#break(how, run);
    }

    async #break(how: StorageFault, run: () => Promise<unknown>): Promise<never> {
      if (how === "hang") {
        await sleep(timeoutMs);
        throw Object.assign(new Error("canceling statement due to statement timeout"), { code: "57014" });
      }
      if (how === "after") await run();
      (this as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
      throw Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" });
    }
  } as typeof pg.Client;
}

function nameOf(query: unknown): string {
  const text = typeof query === "string" ? query : ((query as { text?: string }).text ?? "");
  return text.replace(/\s+/g, " ").slice(0, 60);
}
