// The program inside the sandbox: takes its orders from standard input, attaches, and drives one agent until told to leave.
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { type Channel, Fenced, openChannel } from "./channel.ts";
import { createDriver } from "./driver.ts";
import { forwardLoopback } from "./forward.ts";
import { createMemory, type Memory } from "./memory.ts";
import type { Boot } from "./orders.ts";

async function run(boot: Boot): Promise<number> {
  const forward = await forwardLoopback(boot.socket);
  // The agent starts while the runner attaches, which may take until somebody wants this sandbox.
  const driver = createDriver(boot, new URL(forward.url), process.env);
  const channel = await openChannel(boot.socket, boot.attachToken, boot.spool);
  const memory = await openMemory(join(boot.cwd, ".memory"), channel);
  await driver.serve(channel);
  channel.follow(driver.onCommand).catch((error: unknown) => leave(error));
  const exit = await driver.ended;
  await memory?.finish();
  await channel.detach(exit.reason, exit.code);
  return exit.code;
}

/** The agent works without its memory rather than not at all; nothing is brought back from a directory that was not written. */
async function openMemory(directory: string, channel: Channel): Promise<Memory | undefined> {
  const memory = createMemory(directory, channel.syncMemory, (error) => (error instanceof Fenced ? leave(error) : report(error)));
  try {
    await memory.write(channel.attached.manifest?.memory ?? []);
  } catch (error) {
    report(error);
    const message = `the memory bank could not be written: ${error instanceof Error ? error.message : String(error)}`;
    channel.append([{ case: "system", value: { subtype: "memory_unavailable", message } }]);
    return undefined;
  }
  memory.watch();
  return memory;
}

function report(error: unknown): void {
  process.stderr.write(`runner: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
}

/** A runner that was fenced has done nothing wrong: its session goes on without it. */
function leave(error: unknown): never {
  report(error);
  process.exit(error instanceof Fenced ? 0 : 1);
}

try {
  process.exit(await run(JSON.parse(await text(process.stdin)) as Boot));
} catch (error) {
  leave(error);
}
