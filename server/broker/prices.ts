import { readFileSync } from "node:fs";
import type { UsageTally } from "../journal/tables.ts";

type Price = { prefix: string; input: number; output: number };

/** Public rates at a date, in US dollars per million tokens. */
export type PriceTable = { date: string; models: Price[]; cache_write_factor: number; cache_read_factor: number };

/** The table that ships with Carrel, or the one at `path`, of the same shape. */
export function readPriceTable(path?: string): PriceTable {
  return JSON.parse(readFileSync(path ?? new URL("./prices.json", import.meta.url), "utf8")) as PriceTable;
}

/** Cost in millionths of a US dollar. A model that the table does not know costs what the dearest known one does. */
export function costMicros(table: PriceTable, model: string, usage: Omit<UsageTally, "cost_micros">): number {
  const price = priceOf(table, model);
  const micros =
    usage.input_tokens * price.input +
    usage.cache_creation_input_tokens * price.input * table.cache_write_factor +
    usage.cache_read_input_tokens * price.input * table.cache_read_factor +
    usage.output_tokens * price.output;
  return Math.ceil(micros);
}

function priceOf(table: PriceTable, model: string): Price {
  const known = table.models.filter(({ prefix }) => model.startsWith(prefix)).sort((a, b) => b.prefix.length - a.prefix.length)[0];
  const dearest = table.models.reduce((a, b) => (b.output > a.output ? b : a));
  return known ?? dearest;
}
