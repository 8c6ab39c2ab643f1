// The pure simulator: schedules of a small world, each from a seed, until so many steps are taken or a promise is broken.
import { Violation } from "./checker.ts";
import { startControlPlane } from "./control-plane.ts";
import { startNemesis, stopNemesis } from "./nemesis.ts";
import { startPerson } from "./people.ts";
import { checkAtRest, checkForgotten, unrest } from "./rest.ts";
import { productionRules, type Rules } from "./rules.ts";
import { createWorld, type OnChange, type World } from "./world.ts";

export type SimulateOptions = {
  /** The seed of the first schedule; each further one counts up. */
  seed: number;
  /** Stops after the schedule in which so many are reached. */
  steps: number;
  /** What the world decides by; the production's rules where nothing else is said. */
  rules?: Rules;
  onChange?: OnChange;
};

export type Broken = { seed: number; step: number; atMs: number; promise: string };

export type Simulated = {
  steps: number;
  schedules: number;
  /** Virtual time. */
  simulatedMs: number;
  /** Of processor time, so that a busy machine does not count. */
  tookMs: number;
  stepsPerMinute: number;
  /** The first promise that was broken: nothing is simulated after it. */
  broken: Broken | undefined;
  /** How often each edge, step, refusal and fault was reached. */
  reached: Map<string, number>;
};

export function simulate({ seed, steps, rules = productionRules, onChange }: SimulateOptions): Simulated {
  const began = process.cpuUsage();
  const reached = new Map<string, number>();
  let [taken, schedules, simulatedMs] = [0, 0, 0];
  let broken: Broken | undefined;
  while (taken < steps && !broken) {
    const schedule = runSchedule(seed + schedules, rules, onChange);
    schedules += 1;
    taken += schedule.steps;
    simulatedMs += schedule.now;
    broken = schedule.broken;
    for (const [what, times] of schedule.reached) reached.set(what, (reached.get(what) ?? 0) + times);
  }
  const { user, system } = process.cpuUsage(began);
  const tookMs = (user + system) / 1000;
  return { steps: taken, schedules, simulatedMs, tookMs, stepsPerMinute: Math.round((taken / tookMs) * 60_000), broken, reached };
}

/** People are busy and the nemesis strikes for as long; then all must come to rest within the second time. */
const busyMs = 45_000;
const restMs = 120_000;
/** After so long nothing is left of sessions that nobody uses. */
const oblivionMs = 600_000;

/** One schedule. Its seed is all that it depends on. */
export function runSchedule(seed: number, rules: Rules, onChange?: OnChange) {
  const world = createWorld(seed, rules, onChange);
  let broken: Broken | undefined;
  try {
    runTo(world);
  } catch (error) {
    if (!(error instanceof Violation)) throw new Error(`the simulator failed in schedule ${seed}`, { cause: error });
    broken = { seed, step: world.scheduler.steps, atMs: Math.round(world.scheduler.now), promise: error.message };
  }
  const { steps, now } = world.scheduler;
  return { steps, now, broken, reached: world.checker.reached };
}

function runTo(world: World): void {
  const { random, scheduler } = world;
  for (const host of [0, 1]) startControlPlane(world, host, random.between(-8_000, 8_000));
  const persons = ["ann", "bob"].map((name) => startPerson(world, name));
  startNemesis(world, busyMs);
  while (scheduler.step(busyMs));
  stopNemesis(world);
  for (const person of persons) person.isBusy = false;
  for (let until = busyMs; unrest(world); ) {
    if (until >= busyMs + restMs) throw new Violation(`L1 everything comes to rest: ${unrest(world)}`);
    until += 500;
    while (scheduler.step(until));
  }
  checkAtRest(world);
  if (!random.chance(0.1)) return;
  const { now } = scheduler;
  while (scheduler.step(now + oblivionMs));
  checkForgotten(world);
}
