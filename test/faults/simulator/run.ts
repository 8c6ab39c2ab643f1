/**
 * node setup/run.mjs test/faults/simulator/run.ts [--steps N] [--seed N] [--session ID]
 *
 * The long form of the simulator: so many steps with the production's rules, then each planted bug until it is found. With
 * `--session` one schedule, with each change of that session, to look at what a seed does. Exit code 1 when a promise was
 * broken or a planted bug was not found.
 */
import { parseArgs } from "node:util";
import { mutants } from "./mutants.ts";
import { simulate } from "./simulate.ts";
import type { Change, Row } from "./tables.ts";

const { values } = parseArgs({
  options: { steps: { type: "string", default: "10000000" }, seed: { type: "string" }, session: { type: "string" } },
});

const seed = Number(values.seed ?? Date.now() % 1e9);
/** Within so many steps each planted bug must be found. */
const mostSteps = 3_000_000;

function main(): boolean {
  const { reached, broken, ...figures } = simulate({ seed, steps: Number(values.steps) });
  say(`${figures.steps} steps of ${figures.schedules} schedules from seed ${seed}: ${figures.stepsPerMinute} steps a minute,`);
  say(`${Math.round(figures.simulatedMs / 3_600_000)} hours of virtual time; promises broken: ${broken ? 1 : 0}`);
  for (const [what, times] of [...reached].toSorted(([one], [other]) => one.localeCompare(other))) say(`  ${times} × ${what}`);
  if (broken) say(`BROKEN in schedule ${broken.seed} at step ${broken.step}: ${broken.promise}`);
  const missed = mutants.filter(({ name, rules }) => {
    const found = simulate({ seed, steps: mostSteps, rules });
    say(found.broken ? `found after ${found.steps} steps: ${name}: ${found.broken.promise}` : `NOT FOUND in ${found.steps} steps: ${name}`);
    return !found.broken;
  });
  say(`planted bugs: ${mutants.length - missed.length} of ${mutants.length} found`);
  return !broken && missed.length === 0;
}

/** One schedule, as one session goes through it. */
function show(session: string): boolean {
  const onChange = (before: Row, { row, events, commands }: Change, atMs: number): void => {
    if (row.id !== session) return;
    const state = `${before.state}, ${before.desired} → ${row.state}, ${row.desired}`;
    const what = [...events.map(({ kind, about }) => `${kind} ${about}`), ...commands.map(({ kind }) => `(${kind})`)];
    say(`${Math.round(atMs)} ms  epoch ${row.epoch}  ${row.box ?? "no box"}  turn ${row.turn}  ${state}  ${what.join("; ")}`);
  };
  const { broken } = simulate({ seed, steps: 1, onChange });
  if (broken) say(`BROKEN at ${broken.atMs} ms: ${broken.promise}`);
  return !broken;
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

process.exitCode = (values.session === undefined ? main() : show(values.session)) ? 0 : 1;
