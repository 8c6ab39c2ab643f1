import type { Command } from "../../gen/carrel/runner/v1/command_pb.ts";
import type { SessionCore } from "../journal/store.ts";

/** What hands a runner its commands in this process: those committed here as they are, those of other processes as a ring. */
export type CommandStreams = {
  /** Before the table is read for the first time: what is committed after that is handed over. */
  open(lease: { sessionId: string; epoch: number }): CommandStream;
  /** After a commit. A stream whose lease is over is rung, and finds that out. */
  handOver(session: Pick<SessionCore, "id" | "epoch" | "state">, commands: readonly Command[]): void;
  /** Another process has committed something, or may have; `undefined` rings all. */
  ring(sessionId: string | undefined): void;
};

export type CommandStream = {
  /** The commands after `cursor` without a gap; undefined when only the table knows. Each is handed out once. */
  take(cursor: number): readonly Command[] | undefined;
  /** Resolves when there may be something to take: at the latest after `milliseconds`, when a ring may have been missed. */
  wait(milliseconds: number, signal: AbortSignal): Promise<"rung" | "timeout">;
  close(): void;
};

type Reader = { epoch: number; handed: Command[]; stale: boolean; wake: (() => void) | undefined };

/** A runner that takes nothing for so many commands is served from the table. */
const mostHanded = 100;

export function createCommandStreams(): CommandStreams {
  const readers = new Map<string, Set<Reader>>();
  const wake = (reader: Reader, stale: boolean): void => {
    reader.stale ||= stale;
    reader.wake?.();
  };
  return {
    open({ sessionId, epoch }) {
      const reader: Reader = { epoch, handed: [], stale: false, wake: undefined };
      const mine = readers.get(sessionId) ?? new Set();
      readers.set(sessionId, mine.add(reader));
      return streamOf(reader, () => {
        mine.delete(reader);
        if (mine.size === 0 && readers.get(sessionId) === mine) readers.delete(sessionId);
      });
    },
    handOver({ id, epoch, state }, commands) {
      for (const reader of readers.get(id) ?? []) {
        const over = reader.epoch !== epoch || state === "ended";
        if (!over && commands.length === 0) continue;
        const isTooMuch = reader.handed.length + commands.length > mostHanded;
        reader.handed = isTooMuch ? [] : [...reader.handed, ...(over ? [] : commands)];
        wake(reader, over || isTooMuch);
      }
    },
    ring(sessionId) {
      const rung = sessionId === undefined ? [...readers.values()] : [readers.get(sessionId) ?? []];
      for (const set of rung) for (const reader of set) wake(reader, true);
    },
  };
}

function streamOf(reader: Reader, close: () => void): CommandStream {
  return {
    take(cursor) {
      const fresh = reader.handed.filter(({ id }) => id > cursor);
      const whole = !reader.stale && fresh.every(({ id }, index) => id === cursor + 1 + index);
      reader.handed = [];
      reader.stale = false;
      return whole ? fresh : undefined;
    },
    wait(milliseconds, signal) {
      if (reader.stale || reader.handed.length > 0 || signal.aborted) return Promise.resolve("rung");
      return new Promise((resolve) => {
        const settle = (how: "rung" | "timeout"): void => {
          clearTimeout(timer);
          signal.removeEventListener("abort", reader.wake!);
          reader.wake = undefined;
          reader.stale ||= how === "timeout";
          resolve(how);
        };
        const timer = setTimeout(() => settle("timeout"), milliseconds);
        reader.wake = () => settle("rung");
        signal.addEventListener("abort", reader.wake, { once: true });
      });
    },
    close,
  };
}
