// `npm run faults`: the long form. Everything is killed, cut, stopped, filled and made to fail, and every history is judged.
import { loadavg } from "node:os";
import { parseArgs } from "node:util";
import { type Part, parts, type RunOptions } from "./parts.ts";
import { type Row, tableOf } from "./report.ts";

const usage = `npm run faults -- [--only NAME[,NAME…]] [--kills N] [--seed N] [--json]

  --only   some of the parts:
${parts.map(({ name, what }) => `             ${name.padEnd(16)} ${what}`).join("\n")}
  --kills  of the control plane; of sandboxes half as many, of Postgres a quarter, of the rest in proportion. Default 200
  --seed   of what is done in which order; the moments are the machine's. Default: another one each time
  --json   JSON instead of a table

Ends with 1 when anything is wrong: the lines that start with "!" say what.
`;

function readArguments(): { json: boolean; chosen: readonly Part[]; options: RunOptions } | undefined {
  const { values } = parseArgs({
    options: {
      only: { type: "string" },
      kills: { type: "string", default: "200" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      json: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return undefined;
  const names = values.only?.split(",") ?? parts.map(({ name }) => name);
  const unknown = names.find((name) => !parts.some((part) => part.name === name));
  if (unknown !== undefined) throw new TypeError(`there is no part "${unknown}"`);
  const [kills, seed] = [values.kills, values.seed].map(Number) as [number, number];
  if (!(Number.isInteger(kills) && kills >= 1 && Number.isInteger(seed))) throw new TypeError("--kills and --seed are whole numbers");
  return { json: values.json, chosen: parts.filter(({ name }) => names.includes(name)), options: { kills, seed, tell } };
}

function tell(line: string): void {
  process.stderr.write(`faults: ${line}\n`);
}

async function main(): Promise<void> {
  const read = readArguments();
  if (!read) return void process.stdout.write(usage);
  const { json, chosen, options } = read;
  tell(`seed ${options.seed}`);
  const rows: Row[] = [];
  for (const { name, play } of chosen) {
    const started = performance.now();
    const mine = await play(options).catch((error: Error): Row[] => [{ part: name, violations: [error.stack ?? error.message] }]);
    rows.push(...mine);
    const seconds = Math.round((performance.now() - started) / 1000);
    const load = loadavg().map((value) => value.toFixed(1));
    tell(`${name} took ${seconds} s; load ${load.join(" ")}`);
    for (const { violations } of mine) for (const one of violations) tell(`! ${name}: ${one}`);
  }
  process.stdout.write(json ? `${JSON.stringify({ ...options, rows }, null, 2)}\n` : `${tableOf(rows)}\n`);
  if (rows.some(({ violations }) => violations.length > 0)) process.exitCode = 1;
}

try {
  await main();
} catch (error) {
  if (!(error instanceof TypeError)) throw error;
  process.stderr.write(`faults: ${error.message}\n\n${usage}`);
  process.exitCode = 2;
}
