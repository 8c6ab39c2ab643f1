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
          testTimeout: 60_000,
          hookTimeout: 60_000,
          teardownTimeout: 30_000,
        },
      },
    ],
  },
});
