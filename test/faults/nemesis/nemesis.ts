// Breaks things at random moments, most of them right after a client began something that is worth breaking.
import { setTimeout as sleep } from "node:timers/promises";
import type { World } from "../world.ts";
import { type FaultName, faults, forgiveRestarts } from "./faults.ts";

export const operations = ["create", "prompt", "answer", "hibernate", "resume", "fork", "terminate"] as const;

export type Operation = (typeof operations)[number];

export type Moments = {
  /** What somebody should begin, so that it can be broken. */
  readonly wanted: Operation | undefined;
  /** Somebody began this now. */
  begun(operation: Operation): void;
  /** Resolves when that operation begins, or with "any" when none does for so long. */
  next(operation: Operation, patienceMs: number): Promise<Operation | "any">;
};

export function createMoments(): Moments {
  const waiting = new Set<(operation: Operation) => void>();
  let wanted: Operation | undefined;
  return {
    get wanted() {
      return wanted;
    },
    begun(operation) {
      for (const tell of waiting) tell(operation);
    },
    next(operation, patienceMs) {
      wanted = operation;
      return new Promise((resolve) => {
        const done = (begun: Operation | "any"): void => {
          clearTimeout(timer);
          wanted = undefined;
          waiting.delete(look);
          resolve(begun);
        };
        const look = (begun: Operation): void => {
          if (begun === operation) done(begun);
        };
        const timer = setTimeout(() => done("any"), patienceMs);
        waiting.add(look);
      });
    },
  };
}

export type Struck = {
  /** How often each fault was made. */
  faults: Record<string, number>;
  /** How often something was broken after the beginning of each operation. */
  moments: Record<string, number>;
  /** In how many of the sessions' states, put down right after a fault, each was found. */
  states: Record<string, number>;
};

const mostAfterMs = 700;

export async function strike(world: World, moments: Moments, names: readonly FaultName[], times: number, struck: Struck): Promise<void> {
  const { random } = world;
  for (let count = 0; count < times; count += 1) {
    const operation = await moments.next(operations[count % operations.length]!, 2_000);
    // Often at once, sometimes long after: what follows the answer is where most happens.
    await sleep(random.below(1) ** 2 * mostAfterMs);
    const name = names[count % names.length]!;
    await faults[name](world);
    add(struck.faults, name);
    add(struck.moments, operation);
    for (const state of await statesOf(world)) add(struck.states, state);
    await forgiveRestarts(world);
  }
}

async function statesOf({ installation }: World): Promise<string[]> {
  const rows = await installation.database.db
    .selectFrom("session")
    .select(["state", "restoring", "desired"])
    .where("state", "<>", "ended")
    .execute()
    .catch(() => []);
  return rows.map(
    ({ state, restoring, desired }) => `${state}${restoring ? " (restoring)" : ""}${desired === "end" ? " (wanted ended)" : ""}`,
  );
}

function add(counts: Record<string, number>, name: string): void {
  counts[name] = (counts[name] ?? 0) + 1;
}
