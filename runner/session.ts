// One session, from the moment somebody wants this sandbox: attaches, and drives the agent until told to leave.
import { join } from "node:path";
import { written } from "./archive.ts";
import { type Channel, Fenced, openChannel } from "./channel.ts";
import { createDriver, type FirstAgent } from "./driver.ts";
import { bringBack, confirmBack, putAway, rootsOf } from "./hibernation.ts";
import { lockAgain } from "./locks.ts";
import { createMemory, type Memory } from "./memory.ts";
import type { Place } from "./orders.ts";

/** Resolves with the exit code of the runner. */
export async function serveSession(place: Place, first: FirstAgent): Promise<number> {
  const { boot } = place;
  const roots = rootsOf(boot.cwd, place.environment["HOME"] ?? "/home/agent");
  const driver = createDriver(place, first, (asked, signal) => putAway({ channel, memory, roots, base }, asked, signal));
  await lockAgain(roots).catch(report);
  // May take until somebody wants this sandbox.
  const channel = await openChannel(boot.socket, boot.attachToken, boot.spool);
  const restore = channel.attached.manifest?.restore;
  const base = restore && (await bringBack(channel, driver, roots, restore));
  const onDisk = restore ? written(roots) : Promise.resolve();
  // Looked at below, once the agent is there.
  onDisk.catch(() => undefined);
  const memory = await openMemory(join(boot.cwd, ".memory"), channel);
  await driver.serve(channel, restore?.conversation ?? boot.resume);
  if (restore) await confirmBack(channel, onDisk);
  channel.follow(driver.onCommand).catch((error: unknown) => leave(error));
  const exit = await driver.ended;
  if (exit.dormant) return exit.code;
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
export function leave(error: unknown): never {
  report(error);
  process.exit(error instanceof Fenced ? 0 : 1);
}
