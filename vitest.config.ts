import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    pool: "forks",
    maxWorkers: 2,
    reporters: ["default"],
    projects: [
      {
        extends: true,
        test: { name: "unit", include: ["test/unit/**/*.test.ts"], testTimeout: 10_000 },
      },
      {
        // One project for everything that needs Postgres, because each project would start one of its own.
        extends: true,
        test: {
          name: "system",
          include: ["test/{api,contract,e2e,faults}/**/*.test.ts"],
          globalSetup: ["test/support/postgres-setup.ts", "test/support/runner-setup.ts"],
          // Real processes, killed at real moments, on machines that do other things too: a second failure counts, and a test
          // that needed its second try is printed as such.
          retry: 1,
          testTimeout: 60_000,
          hookTimeout: 60_000,
          teardownTimeout: 30_000,
        },
      },
    ],
  },
});
