/**
 * node setup/run.mjs test/faults/simulator/run.ts [--steps N] [--planted-steps N] [--seed N] [--session ID]
 *
 * The long form of the simulator. With `--session` the one schedule of the seed, as that session goes through it. Exit code 1
 * when a promise was broken or a planted bug was not found.
 */
import { parseArgs } from "node:util";
import { runLongForm } from "./long-form.ts";
import { simulate } from "./simulate.ts";
import type { Change, Row } from "./tables.ts";

const { values } = parseArgs({
  options: {
    steps: { type: "string", default: "10000000" },
    "planted-steps": { type: "string", default: "20000000" },
    seed: { type: "string", default: String(Date.now() % 1e9) },
    session: { type: "string" },
  },
});
const seed = Number(values.seed);

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

const holds =
  values.session === undefined
    ? runLongForm({ seed, steps: Number(values.steps), plantedSteps: Number(values["planted-steps"]), say }).holds
    : show(values.session);
if (!holds) process.exitCode = 1;
