#!/usr/bin/env node
// Starts the CLI from any directory. Plain JavaScript, because the Node that starts it may be too old for TypeScript:
// setup/run.mjs finds the right one.
import { fileURLToPath } from "node:url";

const setup = new URL("../setup/run.mjs", import.meta.url);
process.argv.splice(1, 1, fileURLToPath(setup), "cli/main.ts");
await import(setup.href);
