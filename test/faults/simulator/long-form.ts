// The long form of the simulator, for whoever calls it: so many steps by the production's rules, then every planted bug
// until it is found.
import { mutants } from "./mutants.ts";
import { type Simulated, simulate } from "./simulate.ts";

export type LongFormOptions = {
  seed: number;
  /** By the production's rules. */
  steps: number;
  /** In which each planted bug must be found. */
  plantedSteps: number;
  say(line: string): void;
};

export type LongForm = {
  simulated: Simulated;
  planted: { name: string; simulated: Simulated }[];
  /** Whether no promise was broken and every planted bug was found. */
  holds: boolean;
};

export function runLongForm({ seed, steps, plantedSteps, say }: LongFormOptions): LongForm {
  const simulated = simulate({ seed, steps });
  sayFigures(simulated, seed, say);
  const planted = mutants.map(({ name, rules }) => {
    const one = simulate({ seed, steps: plantedSteps, rules });
    const { broken } = one;
    say(broken ? `found after ${one.steps} steps, in schedule ${broken.seed}: ${name} (${broken.promise})` : `NOT FOUND: ${name}`);
    return { name, simulated: one };
  });
  const found = planted.filter((one) => one.simulated.broken).length;
  say(`planted bugs: ${found} of ${planted.length} found`);
  return { simulated, planted, holds: !simulated.broken && found === planted.length };
}

function sayFigures(
  { steps, schedules, stepsPerMinute, simulatedMs, broken, reached }: Simulated,
  seed: number,
  say: (line: string) => void,
) {
  for (const [what, times] of [...reached].toSorted(([one], [other]) => one.localeCompare(other))) say(`  ${times} × ${what}`);
  const hours = Math.round(simulatedMs / 3_600_000);
  say(`${steps} steps of ${schedules} schedules from seed ${seed}, ${hours} hours of virtual time`);
  say(`${stepsPerMinute} steps in a minute of one core; promises broken: ${broken ? 1 : 0}`);
  if (broken) say(`BROKEN in schedule ${broken.seed} at step ${broken.step}: ${broken.promise}`);
}
