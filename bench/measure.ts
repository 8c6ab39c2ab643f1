import type { Lab } from "./support/lab.ts";

/** What a reading has to reach. `ratio` is ours divided by the floor, `added` ours minus the floor, `ours` stands alone. */
export type Aim = { of: "ratio" | "added" | "ours"; atMost: number } | { of: "ratio"; atLeast: number };

/** One line of the table. Ours and the floor were measured in turns, in one run, on one machine, in the same unit. */
export type Reading = {
  measure: string;
  unit: "µs" | "ms" | "per s" | "MB" | "KB";
  ours: number;
  /** Undefined where there is nothing to compare with. */
  floor: number | undefined;
  /** Undefined for a figure that is only told. */
  aim: Aim | undefined;
};

export type Measure = {
  /** For `--only`. */
  name: string;
  run(lab: Lab): Promise<Reading[]>;
};

export type Judged = Reading & { ratio: number | undefined; reached: boolean | undefined };

/** A reading with its verdict; undefined where there is no aim. */
export function judge(reading: Reading): Judged {
  const { ours, floor, aim } = reading;
  const ratio = floor === undefined ? undefined : ours / floor;
  if (aim === undefined) return { ...reading, ratio, reached: undefined };
  const value = aim.of === "ours" ? ours : aim.of === "ratio" ? ratio : floor === undefined ? undefined : ours - floor;
  if (value === undefined) throw new Error(`${reading.measure} aims at a floor that it does not have`);
  return { ...reading, ratio, reached: "atMost" in aim ? value <= aim.atMost : value >= aim.atLeast };
}
