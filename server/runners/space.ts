// Where the sandbox cannot limit disk space, it is measured now and then. This stops accidents; an agent that hides what it
// writes, in directories it closes or files it has deleted and keeps open, is not stopped by it.
import { execFile } from "node:child_process";
import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import { requestEnd } from "../journal/ends.ts";
import { type Journal, present } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { BoxDirectory } from "./launcher.ts";
import { listRunning } from "./store.ts";

export type SpaceWatchOptions = {
  db: Kysely<Database>;
  journal: Journal;
  log: Log;
  /** The installation whose sessions are measured. */
  host: string;
  directoriesOf(box: string): readonly BoxDirectory[];
  /** Looks at a session that is to end. */
  poke(sessionId: string): void;
  intervalMs: number;
};

export type SpaceWatch = { look(): Promise<void>; close(): Promise<void> };

/** Times its limit, at which a directory ends its session. */
const hardBound = 1.5;
const measureMs = 60_000;

/** Looks at every running session, one after another, and then again `intervalMs` later. Over its limit a session says so once; over the hard bound it ends. */
export function createSpaceWatch(options: SpaceWatchOptions): SpaceWatch {
  const told = new Set<string>();
  const closing = new AbortController();
  let timer: NodeJS.Timeout | undefined;

  const judge = async (sessionId: string, { name, path, limitBytes }: BoxDirectory): Promise<void> => {
    const key = `${sessionId} ${name}`;
    const bytes = await measure(path, closing.signal);
    if (bytes <= limitBytes) return void told.delete(key);
    const mustEnd = bytes > limitBytes * hardBound;
    if (told.has(key) && !mustEnd) return;
    told.add(key);
    const message = `the ${name} holds ${mebibytes(bytes)} MiB, and its limit is ${mebibytes(limitBytes)} MiB`;
    await options.journal.change(sessionId, present, (change) => {
      if (change.session.state !== "running" || change.session.desired === "end") return;
      change.append({ case: "system", value: { subtype: "disk_space_exceeded", message } });
      if (mustEnd) requestEnd(change, "failed", message);
    });
    if (mustEnd) options.poke(sessionId);
  };
  const look = async (): Promise<void> => {
    for (const { id, box } of await listRunning(options.db, options.host)) {
      for (const directory of options.directoriesOf(box)) {
        if (closing.signal.aborted) return;
        await judge(id, directory).catch((error: Error) => {
          if (!closing.signal.aborted) options.log.warn({ session_id: id, err: error }, "disk space not measured");
        });
      }
    }
  };
  let looking: Promise<void> = Promise.resolve();
  const again = (): void => {
    timer = setTimeout(() => {
      looking = look().catch((error: Error) => options.log.warn({ err: error }, "running sessions not read"));
      void looking.then(() => closing.signal.aborted || again());
    }, options.intervalMs);
  };
  again();
  return {
    look,
    async close() {
      closing.abort();
      clearTimeout(timer);
      await looking;
    },
  };
}

/** Bytes on disk below a directory, as far as they can be seen. Links are not followed, other file systems not entered. */
function measure(path: string, signal: AbortSignal): Promise<number> {
  const options = { signal, timeout: measureMs, env: { PATH: "/usr/bin:/bin", LC_ALL: "C" } };
  return new Promise((resolve, reject) => {
    execFile("du", ["--summarize", "--one-file-system", "--block-size=1", "--", path], options, (error, stdout) => {
      // It ends with 1 when files come and go under it, and has measured all the same.
      const bytes = /^(\d+)\t/.exec(stdout)?.[1];
      if (bytes !== undefined && !error?.killed) resolve(Number(bytes));
      else reject(error ?? new Error(`du said ${stdout.slice(0, 200)}`));
    });
  });
}

function mebibytes(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}
