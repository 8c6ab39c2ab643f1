/** Which sessions of an owner changed since a reader last looked. A reader holds a set of ids, never their contents. */
export type ChangedSessions = {
  subscribe(ownerId: string): {
    /** Ids changed since the last call; undefined when some may have been missed and all must be read. */
    take(): string[] | undefined;
    /** Resolves at the next change, after `milliseconds`, or when `signal` aborts. */
    wait(milliseconds: number, signal: AbortSignal): Promise<void>;
    close(): void;
  };
  ring(ownerId: string, sessionId: string): void;
  /** Bells may have been missed. */
  ringAll(): void;
};

type Reader = { changed: Set<string>; missed: boolean; wake: () => void };

export function createChangedSessions(): ChangedSessions {
  const owners = new Map<string, Set<Reader>>();
  return {
    subscribe(ownerId) {
      const reader: Reader = { changed: new Set(), missed: false, wake: () => undefined };
      const readers = owners.get(ownerId) ?? new Set();
      owners.set(ownerId, readers.add(reader));
      return {
        take() {
          const changed = reader.missed ? undefined : [...reader.changed];
          reader.changed.clear();
          reader.missed = false;
          return changed;
        },
        wait: (milliseconds, signal) => woken(reader, milliseconds, signal),
        close() {
          readers.delete(reader);
          if (readers.size === 0 && owners.get(ownerId) === readers) owners.delete(ownerId);
        },
      };
    },
    ring(ownerId, sessionId) {
      for (const reader of owners.get(ownerId) ?? []) {
        reader.changed.add(sessionId);
        reader.wake();
      }
    },
    ringAll() {
      for (const readers of owners.values()) {
        for (const reader of readers) {
          reader.missed = true;
          reader.wake();
        }
      }
    },
  };
}

function woken(reader: Reader, milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      reader.wake = () => undefined;
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    reader.wake = done;
    signal.addEventListener("abort", done, { once: true });
    if (reader.changed.size > 0 || reader.missed || signal.aborted) done();
  });
}
