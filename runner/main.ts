// The program inside the sandbox: takes its orders from standard input, attaches, and drives one agent until told to leave.
import { join } from "node:path";
import { text } from "node:stream/consumers";
import type { Roots } from "./archive.ts";
import { type Channel, Fenced, openChannel } from "./channel.ts";
import { createDriver, type Driver } from "./driver.ts";
import { forwardLoopback } from "./forward.ts";
import { bringBack, putAway, rootsOf } from "./hibernation.ts";
import { createMemory, type Memory } from "./memory.ts";
import type { Boot } from "./orders.ts";

async function run(boot: Boot): Promise<number> {
  const forward = await forwardLoopback(boot.socket);
  // The agent starts while the runner attaches, which may take until somebody wants this sandbox.
  const roots = rootsOf(boot.cwd, process.env["HOME"] ?? "/home/agent");
  const driver = createDriver(boot, new URL(forward.url), process.env, (generation, signal) =>
    putAway(channel, memory, roots, generation, signal),
  );
  const channel = await openChannel(boot.socket, boot.attachToken, boot.spool);
  const restore = channel.attached.manifest?.restore;
  if (restore) await restored(channel, driver, roots, restore.generation);
  const memory = await openMemory(join(boot.cwd, ".memory"), channel);
  await driver.serve(channel, restore?.conversation ?? boot.resume);
  if (restore) await channel.snapshots.reportRestore("");
  channel.follow(driver.onCommand).catch((error: unknown) => leave(error));
  const exit = await driver.ended;
  if (exit.dormant) return exit.code;
  await memory?.finish();
  await channel.detach(exit.reason, exit.code);
  return exit.code;
}

/** A session that cannot be brought back says why and stays put away; nothing of it starts from half of its files. */
async function restored(channel: Channel, driver: Driver, roots: Roots, generation: number): Promise<void> {
  await driver.rest();
  try {
    await bringBack(channel, roots, generation);
  } catch (error) {
    if (error instanceof Fenced) throw error;
    await channel.snapshots.reportRestore(error instanceof Error ? error.message : String(error));
    throw error;
  }
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

text(process.stdin)
  .then((orders) => run(JSON.parse(orders) as Boot))
  .then(process.exit, leave);
