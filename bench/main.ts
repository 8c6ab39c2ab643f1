// `npm run bench`: what Carrel costs, as ratios to floors that are measured in turns with it, in the same run.
import { loadavg } from "node:os";
import { parseArgs } from "node:util";
import { type Judged, judge, type Measure } from "./measure.ts";
import { append } from "./measures/append.ts";
import { dormant } from "./measures/dormant.ts";
import { fanOut } from "./measures/fan-out.ts";
import { firstRequest } from "./measures/first-request.ts";
import { flood } from "./measures/flood.ts";
import { getSession } from "./measures/get-session.ts";
import { memory } from "./measures/memory.ts";
import { permissions } from "./measures/permissions.ts";
import { resume } from "./measures/resume.ts";
import { secondTurn } from "./measures/second-turn.ts";
import { tokenRelay } from "./measures/token-relay.ts";
import { tableOf } from "./report.ts";
import { createLab, type Lab } from "./support/lab.ts";

const measures: readonly Measure[] = [
  firstRequest,
  resume,
  secondTurn,
  tokenRelay,
  getSession,
  append,
  permissions,
  memory,
  dormant,
  fanOut,
  flood,
];

const usage = `npm run bench -- [--only NAME[,NAME…]] [--quick] [--json]

  --only   some of the measures: ${measures.map(({ name }) => name).join(", ")}
  --quick  a fifth of the load: a first look, too little to compare
  --json   JSON instead of a table
`;

function readArguments(): { json: boolean; quick: boolean; chosen: readonly Measure[] } {
  const { values } = parseArgs({
    options: { only: { type: "string" }, quick: { type: "boolean", default: false }, json: { type: "boolean", default: false } },
  });
  const names = values.only?.split(",") ?? measures.map(({ name }) => name);
  const unknown = names.find((name) => !measures.some((measure) => measure.name === name));
  if (unknown !== undefined) throw new TypeError(`there is no measure "${unknown}"`);
  return { json: values.json, quick: values.quick, chosen: measures.filter(({ name }) => names.includes(name)) };
}

async function run(lab: Lab, chosen: readonly Measure[]): Promise<Judged[]> {
  const rows: Judged[] = [];
  for (const { name, run: measure } of chosen) {
    const started = performance.now();
    rows.push(...(await measure(lab)).map(judge));
    process.stderr.write(`bench: ${name} took ${Math.round((performance.now() - started) / 1000)} s; load ${load()}\n`);
  }
  return rows;
}

/** What else the machine did: one, five and fifteen minutes. */
function load(): string {
  return loadavg()
    .map((value) => value.toFixed(1))
    .join(" ");
}

async function main(): Promise<void> {
  const { json, quick, chosen } = readArguments();
  const lab = await createLab(quick);
  const stop = (): void => void lab.close().finally(() => process.exit(130));
  process.once("SIGINT", stop).once("SIGTERM", stop);
  try {
    const rows = await run(lab, chosen);
    process.stdout.write(json ? `${JSON.stringify({ quick, load: loadavg(), rows }, null, 2)}\n` : `${tableOf(rows)}\n`);
  } catch (error) {
    // Told before the closing, which may fail for the same reason.
    process.stderr.write(`bench: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    process.exitCode = 1;
  }
  await lab.close();
}

try {
  await main();
} catch (error) {
  const misused = error instanceof TypeError;
  process.stderr.write(
    misused ? `bench: ${error.message}\n\n${usage}` : `bench: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
  );
  process.exitCode = misused ? 2 : 1;
}
