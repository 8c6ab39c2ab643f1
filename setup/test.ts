/**
 * npm test [-- vitest's arguments]: runs the tests and ends with one line, `N passed, N failed, N skipped`.
 *
 * A test file that cannot be loaded and an error outside any test count as failed: neither may hide.
 */
import { accessSync, constants, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Vitest } from "vitest/node";

type Counts = { passed: number; failed: number; skipped: number };

const root = path.dirname(import.meta.dirname);

async function main(): Promise<Counts> {
  process.chdir(root);
  provideTemporaryDirectory();
  const { createVitest, parseCLI } = await import("vitest/node");
  const { filter, options } = parseCLI(["vitest", "run", ...process.argv.slice(2)]);
  // The native loader reads vitest.config.ts as it is; the default one writes a bundle of it into the checkout.
  const vitest = await createVitest({ configLoader: "native", ...options, watch: false, run: true });
  cancelOnSignal(vitest);
  try {
    await vitest.start(filter);
    return count(vitest);
  } finally {
    await vitest.close();
  }
}

/** The first signal ends the run in order, so that nothing the tests started is left behind; the second ends it at once. */
function cancelOnSignal(vitest: Vitest): void {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    // vitest's own listener would exit before anything is torn down.
    process.removeAllListeners(signal);
    process.once(signal, () => {
      process.exitCode = 130;
      void vitest.cancelCurrentRun("keyboard-input");
    });
  }
}

/** Some machines give ordinary users no /tmp to write to. */
function provideTemporaryDirectory(): void {
  try {
    accessSync(tmpdir(), constants.W_OK | constants.X_OK);
  } catch {
    const replacement = path.join(root, ".toolchain", "tmp");
    mkdirSync(replacement, { recursive: true });
    process.env["TMPDIR"] = replacement;
  }
}

function count(vitest: Vitest): Counts {
  const counts: Counts = { passed: 0, failed: vitest.state.getUnhandledErrors().length, skipped: 0 };
  for (const module of vitest.state.getTestModules()) {
    let failedTests = 0;
    for (const test of module.children.allTests()) {
      const { state } = test.result();
      if (state === "passed") counts.passed += 1;
      else if (state === "failed") failedTests += 1;
      // "pending" at the end: the run was cut short before it.
      else counts.skipped += 1;
    }
    // Failed as a whole: its import, or a hook of it.
    if (failedTests === 0 && module.state() === "failed") failedTests = 1;
    counts.failed += failedTests;
  }
  return counts;
}

const counts = await main().catch((error: unknown): Counts => {
  console.error(error);
  return { passed: 0, failed: 1, skipped: 0 };
});
if (counts.failed > 0 || counts.passed === 0) process.exitCode ??= 1;
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
