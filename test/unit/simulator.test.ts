// The short form of the simulator (test/faults/simulator): the production's rules break no promise in many schedules of
// faults, and each planted bug breaks one. CARREL_TEST_SEED begins with that schedule.
import { describe, expect, test } from "vitest";
import { edges } from "../faults/simulator/invariants.ts";
import { mutants } from "../faults/simulator/mutants.ts";
import { shownBy } from "../faults/simulator/shown-by.ts";
import { simulate } from "../faults/simulator/simulate.ts";

const seed = Number(process.env["CARREL_TEST_SEED"] ?? 1);
const steps = 1_000_000;
/** A schedule that no longer shows its bug, because the world has changed, is followed by others. */
const mostSteps = 1_500_000;

const takenSteps = [
  ...["launch", "recover", "give_up", "give_up_restore", "startup_timeout", "expire"],
  ...["hibernate", "stay_awake", "clear", "wake", "ask_to_end", "force_end"],
];
const faults = [
  ...["loss of a call", "loss of an answer", "duplication of a call", "duplication of a message", "delay", "a stream is cut"],
  ...["storage fails before the commit", "storage fails at the commit", "storage fails after the commit", "Postgres restarts"],
  ...["kill of a control plane", "stop of a control plane", "kill of a runner", "stop of a runner", "an ended runner still speaks"],
  ...["crash of a control-plane", "crash of a runner", "crash of a agent", "a runner dies with its last word", "a step is slow"],
  ...["no room in the object store", "the object store fails", "the object store hangs", "a snapshot is cut", "loss of an archive"],
  ...[
    "an archive is altered while it is written",
    "a snapshot cannot be read",
    "a sandbox cannot be started",
    "a sandbox cannot be ended",
    "a runner never attaches",
    "the provider fails",
  ],
];

describe("sessions under faults", () => {
  const simulated = simulate({ seed, steps });

  test(`no promise is broken from schedule ${seed} on`, () => {
    expect(simulated.broken).toBeUndefined();
    expect(simulated.steps).toBeGreaterThanOrEqual(steps);
  });

  test("every edge between states, every step and every fault is reached", () => {
    const wanted = [
      ...[...edges].map((edge) => `edge: ${edge}`),
      ...takenSteps.map((step) => `step: ${step}`),
      ...faults.map((fault) => `fault: ${fault}`),
      ...["spool heard", "change without the lock", "watcher was handed events", "stranded archive removed"],
      ...["a session that waits is put away", "an approval is answered while its session is away", "nobody answered in time"],
      ...["a carried answer is applied", "a carried refusal is applied", "a session is parked"],
    ];
    const { reached } = seed === 1 ? simulated : simulate({ seed: 1, steps });
    expect(wanted.filter((what) => !reached.has(what))).toEqual([]);
  });

  test("a schedule is the same whenever it is run", () => {
    const [one, other] = [simulate({ seed: seed + 3, steps: 1 }), simulate({ seed: seed + 3, steps: 1 })];
    expect({ ...one, tookMs: 0, stepsPerMinute: 0 }).toEqual({ ...other, tookMs: 0, stepsPerMinute: 0 });
  });
});

describe("a planted bug is found", () => {
  test.each(mutants)("$name", ({ name, rules }) => {
    expect(simulate({ seed: shownBy[name] ?? 1, steps: mostSteps, rules }).broken?.promise).toBeDefined();
  });
});
