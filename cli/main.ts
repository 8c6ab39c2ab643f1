/** The process around the CLI: nothing else of it touches `process`. */
import os from "node:os";
import { runCli } from "./program.ts";

for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    // The reader of a pipe went away (`carrel session list | head`): there is nobody left to tell.
    if (error.code === "EPIPE") process.exit(0);
    throw error;
  });
}

process.exitCode = await runCli(process.argv.slice(2), {
  env: process.env,
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  homeDirectory: os.homedir(),
  now: () => new Date(),
  onInterrupt(handler) {
    process.on("SIGINT", handler);
    return () => process.off("SIGINT", handler);
  },
});
// A terminal that was read from keeps the process alive.
process.stdin.destroy();
