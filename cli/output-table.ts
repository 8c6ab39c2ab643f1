import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import type { Output } from "./output.ts";
import { sanitise } from "./output-text.ts";

/** Names and values, a line each; what is empty is left out. */
export function printFacts(output: Output, facts: readonly (readonly [string, string])[]): void {
  for (const [name, value] of facts) if (value !== "") output.line({ style: "dim", text: `${name}:`.padEnd(17) }, oneLine(value));
}

/** A time to the second; "" for none. */
export function timeOf(time: Timestamp | undefined): string {
  return time
    ? timestampDate(time)
        .toISOString()
        .replace(/\.\d+Z$/, "Z")
    : "";
}

function oneLine(text: string): string {
  return sanitise(text).replace(/\s+/g, " ");
}

/** Rows under their titles. */
export function printTable(output: Output, head: string[], rows: string[][]): void {
  const cells = rows.map((row) => row.map(oneLine));
  const widths = head.map((title, column) => Math.max(title.length, ...cells.map((row) => row[column]?.length ?? 0)));
  const layOut = (row: string[]) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd();
  output.line({ style: "bold", text: layOut(head) });
  for (const row of cells) output.line(layOut(row));
}
