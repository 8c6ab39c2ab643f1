import { hash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { MemoryChange, MemoryFile } from "../gen/carrel/runner/v1/memory_pb.ts";
import { type Book, findChanges, type Pending } from "./memory-changes.ts";
import { type Look, lookAt, writeFiles } from "./memory-files.ts";

/** Sends changes and answers with those that were not taken. */
export type SendMemory = (changes: MemoryChange[]) => Promise<{ refused: readonly { path: string }[] }>;

export type Memory = {
  /** Makes the directory hold exactly these files; before the agent's first prompt. */
  write(files: readonly MemoryFile[]): Promise<void>;
  /** Follows what the agent does to them until `finish`. */
  watch(): void;
  /** Brings back what is not back yet. */
  sync(): Promise<void>;
  /** The same, and stops following. */
  finish(): Promise<void>;
};

/**
 * How often the directory is looked at. Looking is bounded, while notifications of the kernel cost a handle for each directory
 * the agent makes, and go on for a directory that was moved away.
 */
const lookMs = 500;
/** Looks for which a directory that keeps changing is left to come to rest. */
const restlessLooks = 6;
const batchChanges = 100;
const batchBytes = 1024 * 1024;

/** @param onError told what went wrong; the bank is followed further. */
export function createMemory(directory: string, send: SendMemory, onError: (error: unknown) => void): Memory {
  const book: Book = { known: new Map(), told: new Map(), refused: new Set() };
  const stopping = new AbortController();
  const isDue = createRest();
  let watching: Promise<void> = Promise.resolve();

  const look = async (isWanted: (look: Look) => boolean): Promise<void> => {
    try {
      const seen = await lookAt(directory);
      if (isWanted(seen)) await bringBack(await findChanges(book, directory, seen), send);
    } catch (error) {
      onError(error);
    }
  };
  const follow = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      await sleep(lookMs, undefined, { signal: stopping.signal }).catch(() => undefined);
      if (!stopping.signal.aborted) await look((seen) => isDue(fingerprint(seen)));
    }
  };

  return {
    async write(files) {
      await writeFiles(directory, files);
      for (const { path, content } of files) book.known.set(path, hash("sha256", content, "hex"));
    },
    watch() {
      watching = follow();
    },
    sync: () => look(() => true),
    async finish() {
      stopping.abort();
      await watching;
      await look(() => true);
    },
  };
}

async function bringBack(changes: readonly Pending[], send: SendMemory): Promise<void> {
  for (const batch of batchesOf(changes)) {
    const answer = await send(batch.map(({ change }) => change));
    const not = new Set(answer.refused.map(({ path }) => path));
    for (const { change, done } of batch) done(not.has(change.path));
  }
}

function batchesOf(items: readonly Pending[]): Pending[][] {
  const batches: Pending[][] = [];
  let bytes = 0;
  for (const item of items) {
    const last = batches.at(-1);
    bytes += item.bytes;
    if (last && last.length < batchChanges && bytes <= batchBytes) last.push(item);
    else {
      batches.push([item]);
      bytes = item.bytes;
    }
  }
  return batches;
}

function fingerprint({ files, obstacles }: Look): string {
  const lines = [...files, ...obstacles].map((entry) => entry.join(" "));
  return hash("sha256", lines.sort().join("\n"), "hex");
}

/** Whether what was seen is to be brought back: it is new, and came to rest or has not for too long. */
function createRest(): (now: string) => boolean {
  let [synced, before, restless] = ["", "", 0];
  return (now) => {
    const resting = now === before || (restless += 1) >= restlessLooks;
    before = now;
    if (now === synced || !resting) return false;
    [synced, restless] = [now, 0];
    return true;
  };
}
