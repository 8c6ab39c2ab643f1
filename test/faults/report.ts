// What the long form says in the end: one row for each part.
import type { Violation } from "./history/invariants.ts";
import type { Damage } from "./history/violation.ts";
import type { Trial } from "./workload/trial.ts";

export type Row = {
  part: string;
  /** Kills and other faults that were made. */
  faults?: number;
  acknowledged?: number;
  unknown?: number;
  events?: number;
  damage?: Record<Damage, number>;
  /** Answers of the model that nobody booked, and archives that nobody names: what kills may cost, and how much it was. */
  unbilled?: number;
  stranded?: number;
  /** Until everything had come to rest, at the longest. */
  convergedMs?: number;
  seconds?: number;
  /** For whoever wants to know where the faults struck. */
  moments?: Record<string, number>;
  states?: Record<string, number>;
  /** What else is to be said, also why nothing was done. */
  note?: string;
  violations: string[];
};

export function damageOf(violations: readonly Violation[]): Record<Damage, number> {
  const count = (damage: Damage) => violations.filter((one) => one.damage === damage).length;
  return {
    lost: count("lost"),
    doubled: count("doubled"),
    hole: count("hole"),
    stuck: count("stuck"),
    orphan: count("orphan"),
    broken: count("broken"),
  };
}

/** Several trials of one part as one row. */
export function rowOf(part: string, trials: readonly Trial[]): Row {
  const violations = trials.flatMap((trial) => trial.violations);
  const sum = (read: (trial: Trial) => number) => trials.reduce((total, trial) => total + read(trial), 0);
  return {
    part,
    faults: sum(({ struck }) => Object.values(struck.faults).reduce((total, times) => total + times, 0)),
    acknowledged: sum(({ figures }) => figures.acknowledged),
    unknown: sum(({ figures }) => figures.unknown),
    events: sum(({ figures }) => figures.events),
    damage: damageOf(violations),
    unbilled: sum(({ figures }) => figures.unbilled),
    stranded: sum(({ figures }) => figures.stranded),
    convergedMs: Math.max(0, ...trials.map(({ figures }) => figures.convergedMs)),
    seconds: sum(({ figures }) => figures.seconds),
    moments: merged(trials.map(({ struck }) => struck.moments)),
    states: merged(trials.map(({ struck }) => struck.states)),
    violations: violations.map(({ invariant, message }) => `${invariant}: ${message}`),
  };
}

function merged(all: readonly Record<string, number>[]): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const one of all) for (const [name, count] of Object.entries(one)) sum[name] = (sum[name] ?? 0) + count;
  return sum;
}

const columns: readonly [title: string, read: (row: Row) => string | number | undefined][] = [
  ["part", ({ part }) => part],
  ["faults", ({ faults }) => faults],
  ["acknowledged", ({ acknowledged }) => acknowledged],
  ["events", ({ events }) => events],
  ["lost", ({ damage }) => damage?.lost],
  ["doubled", ({ damage }) => damage?.doubled],
  ["holes", ({ damage }) => damage?.hole],
  ["stuck", ({ damage }) => damage?.stuck],
  ["orphans", ({ damage }) => damage?.orphan],
  ["other", ({ damage }) => damage?.broken],
  ["unbilled", ({ unbilled }) => unbilled],
  ["stranded", ({ stranded }) => stranded],
  ["rest after", ({ convergedMs }) => (convergedMs === undefined ? undefined : `${(convergedMs / 1000).toFixed(1)} s`)],
  ["took", ({ seconds }) => (seconds === undefined ? undefined : `${seconds} s`)],
  ["", ({ violations, note }) => (violations.length > 0 ? `FAILED ${note ?? ""}` : note)],
];

export function tableOf(rows: readonly Row[]): string {
  const cells = [columns.map(([title]) => title), ...rows.map((row) => columns.map(([, read]) => String(read(row) ?? "")))];
  const widths = columns.map((_, column) => Math.max(...cells.map((line) => line[column]!.length)));
  const lines = cells.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join("  ")
      .trimEnd(),
  );
  const kills = rows.reduce((sum, { faults }) => sum + (faults ?? 0), 0);
  return [...lines, ...boundOf(kills)].join("\n");
}

/** No failure in n tries is no proof; it bounds the rate, at 95 %, by 3/n. */
function boundOf(faults: number): string[] {
  return faults === 0
    ? []
    : ["", `${faults} faults: without a violation, fewer than ${((3 / faults) * 100).toFixed(2)} % of such faults do harm (95 %)`];
}
