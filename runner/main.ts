// The program inside the sandbox: takes its orders from standard input, attaches, and drives one agent until told to leave.
import { text } from "node:stream/consumers";
import { Fenced, openChannel } from "./channel.ts";
import { createDriver } from "./driver.ts";
import { forwardLoopback } from "./forward.ts";
import type { Boot } from "./orders.ts";

async function run(boot: Boot): Promise<number> {
  const forward = await forwardLoopback(boot.socket);
  // The agent starts while the runner attaches, which may take until somebody wants this sandbox.
  const driver = createDriver(boot, new URL(forward.url), process.env);
  const channel = await openChannel(boot.socket, boot.attachToken);
  await driver.serve(channel);
  channel.follow(driver.onCommand).catch((error: unknown) => leave(error));
  const exit = await driver.ended;
  await channel.detach(exit.reason, exit.code);
  return exit.code;
}

/** A runner that was fenced has done nothing wrong: its session goes on without it. */
function leave(error: unknown): never {
  process.stderr.write(`runner: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  process.exit(error instanceof Fenced ? 0 : 1);
}

try {
  process.exit(await run(JSON.parse(await text(process.stdin)) as Boot));
} catch (error) {
  leave(error);
}
