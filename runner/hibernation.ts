// Leaving with everything put away, and coming back to it.
import { join } from "node:path";
import type { Restore } from "../gen/carrel/runner/v1/manifest_pb.ts";
import { pack, unpack, written } from "./archive.ts";
import { type Channel, Fenced } from "./channel.ts";
import type { Driver } from "./driver.ts";
import type { Listing, Roots } from "./listing.ts";
import type { Memory } from "./memory.ts";
import { stopOthers } from "./other-processes.ts";
import type { AskedSnapshot } from "./snapshots.ts";

/** @param workspace without the memory bank, which is given to each runner anew. */
export function rootsOf(workspace: string, home: string): Roots {
  const unlocked = join(home, ".carrel-unlocked");
  return {
    directories: [workspace, home],
    except: [join(workspace, ".memory"), unlocked],
    unlocked,
    first: [join(home, ".claude"), join(home, ".claude.json")],
    signs: [join(workspace, ".git")],
  };
}

/** What one snapshot left in the directories: the next may be an increment to that. */
export type Base = { generation: number; listing: Listing };

/** Everything that is put away, and what of it another snapshot holds already. */
export type Session = { channel: Channel; memory: Memory | undefined; roots: Roots; base: Base | undefined };

/** Brings everything out of the sandbox, in which nothing may run any more. True when it is kept and this runner is to leave. */
export async function putAway({ channel, memory, roots, base }: Session, asked: AskedSnapshot, signal: AbortSignal): Promise<boolean> {
  if (signal.aborted) return false;
  const stopped = stopOthers();
  if (stopped.length > 0) {
    const message = `stopped to put the session away: ${stopped.join(", ")}`;
    channel.append([{ case: "system", value: { subtype: "background_processes_stopped", message, details: { processes: stopped } } }]);
  }
  await memory?.sync();
  // What the disk has lost already must not take the place of what is kept.
  await written(roots, signal);
  await channel.flushed();
  const since = base?.generation === asked.baseGeneration ? base : undefined;
  const made = { ...asked, baseGeneration: since?.generation ?? 0 };
  return channel.snapshots.put(made, () => pack(roots, since?.listing, signal), signal);
}

/** A session that cannot be brought back says why and stays put away; nothing of it starts from half of its files. */
export async function bringBack(channel: Channel, driver: Driver, roots: Roots, restore: Restore): Promise<Base | undefined> {
  const { generation, chain, conversation } = restore;
  try {
    if (chain.at(-1) !== generation) throw new Error(`the chain of snapshot ${generation} is not known`);
    const listing = await channel.snapshots.get(chain, async (archives) => {
      // Whoever stood by, or was started when this was tried before: it would write into what is being brought back.
      await driver.rest();
      stopOthers();
      return unpack(archives, roots, () => driver.serveEarly(channel, conversation));
    });
    return listing && { generation, listing };
  } catch (error) {
    return stayAway(channel, error);
  }
}

/** Says that everything is back once the disk has it, which is waited for while the agent starts. */
export async function confirmBack(channel: Channel, onDisk: Promise<void>): Promise<void> {
  await onDisk.catch((error: unknown) => stayAway(channel, error));
  await channel.snapshots.reportRestore("");
}

async function stayAway(channel: Channel, error: unknown): Promise<never> {
  if (error instanceof Fenced) throw error;
  await channel.snapshots.reportRestore(error instanceof Error ? error.message : String(error));
  throw error;
}
