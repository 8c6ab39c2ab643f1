// What the long form is made of: scenarios with a workload, and the tests beside them in their long forms.
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type Row, rowOf } from "./report.ts";
import { play, type Scenario, scenarios } from "./scenarios.ts";
import { runLongForm } from "./simulator/long-form.ts";
import type { Trial } from "./workload/trial.ts";

export type RunOptions = { kills: number; seed: number; tell(line: string): void };

export type Part = { name: string; what: string; play(options: RunOptions): Promise<Row[]> };

/** The kills of the control plane in the long form; those of other parts are in proportion to them. */
const wholeKills = 200;
/** So many faults in one life of an installation. */
const faultsPerWorld = 50;

export const parts: readonly Part[] = [
  ...scenarios.map(scenarioPart),
  testPart("stopped-runners", "a runner stopped for a minute and replaced, its rights stolen", "test/faults/stopped-runners.test.ts", {
    CARREL_TEST_STALE_MS: "60000",
  }),
  testPart("full-disk", "disks full at each stage of a snapshot", "test/faults/full-disk.test.ts", {}),
  testPart("storage", "each call of each storage fails before, after, by a timeout", "test/faults/storage.test.ts", {
    CARREL_TEST_STORAGE_STRIDE: "1",
  }),
  testPart("planted", "bugs planted in the server, each of which a test has to find", "test/faults/planted-bugs.test.ts", {
    CARREL_TEST_PLANTED: "all",
  }),
  simulatorPart("simulator", "sessions in a simulated world by the production's rules, and bugs planted in these"),
];

function scenarioPart(scenario: Scenario): Part {
  const { name, what, unavailable } = scenario;
  return {
    name,
    what,
    async play({ kills, seed, tell }) {
      const missing = unavailable?.();
      if (missing !== undefined) return [{ part: name, note: `skipped: ${missing}`, violations: [] }];
      const times = Math.max(1, Math.round((scenario.times * kills) / wholeKills));
      const trials: Trial[] = [];
      for (let done = 0; done < times; done += faultsPerWorld) {
        const trial = await play(scenario, Math.min(faultsPerWorld, times - done), seed + done);
        trials.push(trial);
        tell(`${name}: ${done + Math.min(faultsPerWorld, times - done)} of ${times}; ${JSON.stringify(trial.figures)}`);
      }
      return [rowOf(name, trials)];
    },
  };
}

const root = path.resolve(import.meta.dirname, "../..");

type TestReport = {
  numPassedTests: number;
  numPendingTests: number;
  testResults: { message: string; assertionResults: { status: string; fullName: string; failureMessages: string[] }[] }[];
};

function testPart(name: string, what: string, file: string, environment: Record<string, string>): Part {
  return {
    name,
    what,
    async play({ tell }) {
      const started = performance.now();
      const directory = mkdtempSync(path.join(tmpdir(), "carrel-faults-"));
      try {
        const report = await runTest(file, { ...process.env, ...environment }, path.join(directory, "report.json"));
        const all = report.testResults.flatMap(({ assertionResults }) => assertionResults);
        const failed = all.filter(({ status }) => status === "failed");
        const skipped = all.filter(({ status }) => status !== "failed" && status !== "passed");
        for (const { fullName } of skipped) tell(`${name}: skipped: ${fullName}`);
        const broken = report.testResults.filter(({ assertionResults, message }) => assertionResults.length === 0 && message !== "");
        const note = `${all.length - failed.length - skipped.length} tests passed${skipped.length > 0 ? `, ${skipped.length} skipped` : ""}`;
        const violations = [
          ...failed.map(({ fullName, failureMessages }) => `${fullName}: ${failureMessages.join(" ").slice(0, 600)}`),
          ...broken.map(({ message }) => message),
          ...(all.length === 0 && broken.length === 0 ? ["no test was run"] : []),
        ];
        return [{ part: name, seconds: Math.round((performance.now() - started) / 1000), note, violations }];
      } finally {
        rmSync(directory, { recursive: true, force: true });
      }
    },
  };
}

const simulatedSteps = 20_000_000;

function simulatorPart(name: string, what: string): Part {
  return {
    name,
    what,
    async play({ seed, tell }) {
      const started = performance.now();
      const { simulated, planted } = runLongForm({
        seed,
        steps: simulatedSteps,
        plantedSteps: simulatedSteps,
        say: (line) => tell(`${name}: ${line}`),
      });
      const { broken, steps, stepsPerMinute } = simulated;
      const missed = planted.filter((one) => !one.simulated.broken);
      const violations = [
        ...(broken ? [`in schedule ${broken.seed} at step ${broken.step}: ${broken.promise}`] : []),
        ...missed.map((one) => `not found: ${one.name}`),
      ];
      const note = `${steps} steps, ${stepsPerMinute} in a minute of one core; ${planted.length - missed.length} of ${planted.length} planted bugs found`;
      return [{ part: name, seconds: Math.round((performance.now() - started) / 1000), note, violations }];
    },
  };
}

/** A report is there whether or not tests failed. */
function runTest(file: string, env: NodeJS.ProcessEnv, report: string): Promise<TestReport> {
  const args = [
    path.join(root, "node_modules/vitest/vitest.mjs"),
    "run",
    "--retry",
    "0",
    "--reporter",
    "json",
    "--outputFile",
    report,
    file,
  ];
  return new Promise((resolve, reject) => {
    execFile(process.execPath, args, { cwd: root, env, maxBuffer: 64 * 1024 * 1024 }, (error) => {
      try {
        resolve(JSON.parse(readFileSync(report, "utf8")) as TestReport);
      } catch (unread) {
        reject(error ?? unread);
      }
    });
  });
}
