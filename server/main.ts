import { existsSync } from "node:fs";
import { createApp } from "./app.ts";
import { ConfigError, readConfig } from "./config.ts";
import { DatabaseNotDurableError } from "./db/connect.ts";
import { SchemaMismatchError } from "./db/migrate.ts";
import { DirectoryLockedError } from "./directory-lock.ts";
import { IssuerKeyError } from "./identity/issuer-key.ts";
import { createLog } from "./log.ts";
import { SandboxUnavailableError } from "./sandbox/select.ts";
import { KeyFileError, RootKeyError } from "./vault/errors.ts";

/** Problems that only the operator can mend, by configuration or by the right key. */
const operatorErrors = [
  ConfigError,
  KeyFileError,
  RootKeyError,
  SandboxUnavailableError,
  DatabaseNotDurableError,
  SchemaMismatchError,
  DirectoryLockedError,
  IssuerKeyError,
];
const exitConfiguration = 78;

/** Half a minute in all, and more only for a drain that takes it. */
function longestStopMs(drainMs: number): number {
  return Math.max(30_000, drainMs + 5_000);
}

async function main(): Promise<void> {
  const config = readConfig();
  const log = createLog(config.logLevel);
  if (!existsSync(config.runnerPath)) throw new ConfigError([`there is no runner at ${config.runnerPath}: start with npm, which makes it`]);
  const app = await createApp(config, log);
  const token = await app.issuer.issueToken({ email: "you@localhost.localdomain", ttlMs: 12 * 3_600_000, operator: true });
  process.stdout.write(`Carrel is ready at ${app.url}\n`);
  process.stdout.write(`Sign in:  npm run carrel -- login '${app.url}/#token=${token}'\n`);
  if (app.sandboxGaps) process.stdout.write(`Not enforced on this machine: ${app.sandboxGaps}\n`);

  let stopping = false;
  const stop = (signal: string): void => {
    if (stopping) return;
    stopping = true;
    log.info({ signal }, "stopping; sandboxes stay for the next start");
    // Whatever does not come to an end is ended like a crash, which loses nothing either.
    setTimeout(() => {
      log.error("did not stop in time");
      process.exit(1);
    }, longestStopMs(config.drainMs)).unref();
    app.close().then(
      () => process.exit(0),
      (error: Error) => {
        log.error({ err: error }, "did not stop in order");
        process.exit(1);
      },
    );
  };
  process.on("SIGTERM", () => stop("SIGTERM"));
  process.on("SIGINT", () => stop("SIGINT"));
}

try {
  await main();
} catch (error) {
  const operator = operatorErrors.some((type) => error instanceof type);
  const lines =
    error instanceof ConfigError
      ? error.problems
      : [error instanceof Error ? (operator ? error.message : (error.stack ?? error.message)) : String(error)];
  for (const line of lines) process.stderr.write(`carrel: ${line}\n`);
  process.exit(operator ? exitConfiguration : 1);
}
