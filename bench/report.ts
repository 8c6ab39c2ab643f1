import type { Aim, Judged, Reading } from "./measure.ts";

const head = ["measure", "ours", "floor", "ratio", "aim", "ok"];

/** The table, as Markdown. */
export function tableOf(rows: readonly Judged[]): string {
  const cells = [head, ...rows.map(cellsOf)];
  const widths = head.map((_, column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
  const lines = cells.map((row) => `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(" | ")} |`);
  lines.splice(1, 0, `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`);
  return lines.join("\n");
}

function cellsOf({ measure, unit, ours, floor, ratio, aim, reached }: Judged): string[] {
  return [
    measure,
    `${figure(ours)} ${unit}`,
    floor === undefined ? "" : `${figure(floor)} ${unit}`,
    ratio === undefined ? "" : `${figure(ratio)} ×`,
    aim ? wordsOf(aim, unit) : "",
    reached === undefined ? "" : reached ? "yes" : "no",
  ];
}

function wordsOf(aim: Aim, unit: Reading["unit"]): string {
  if ("atLeast" in aim) return `≥ ${aim.atLeast} ×`;
  if (aim.of === "ratio") return `≤ ${aim.atMost} ×`;
  return `≤ ${aim.of === "added" ? "+" : ""}${aim.atMost} ${unit}`;
}

/** Three digits that mean something. */
function figure(value: number): string {
  if (Math.abs(value) >= 1_000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(3)));
}
