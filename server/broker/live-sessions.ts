import type { SessionCore } from "../journal/store.ts";
import { type PhantomSession, phantomSessionOf } from "./phantom.ts";

/**
 * What this process committed of its sessions a moment ago, so that most model requests need no look into the database. What
 * a session has spent is written only by the process that serves its sandbox, and is exact. That another process ended it or
 * took it away is told by a bell; should that be lost, it is seen a second later.
 */
export type LiveSessions = {
  /** The live session of a phantom token; undefined where only the database can tell. */
  find(phantomHash: Uint8Array): PhantomSession | undefined;
  /** After each commit of this process. */
  committed(session: SessionCore): void;
  /** The session has changed, or may have, without a commit that was told of; undefined means any session. */
  rung(sessionId: string | undefined): void;
};

const freshMs = 1_000;
const most = 1_000;

/** Without a session: it is not to be relied on for as long, whatever is heard of it. */
type Entry = { session: PhantomSession | undefined; hash: string; at: number };

export function createLiveSessions(now: () => number = () => performance.now()): LiveSessions {
  const entries = new Map<string, Entry>();
  const idOf = new Map<string, string>();
  let allRungAt = Number.NEGATIVE_INFINITY;
  const isFresh = ({ at }: Entry) => now() - at < freshMs;

  const put = (id: string, entry: Entry): void => {
    forget(id);
    entries.set(id, entry);
    if (entry.session) idOf.set(entry.hash, id);
    if (entries.size > most) forget(entries.keys().next().value!);
  };
  const forget = (id: string): void => {
    const entry = entries.get(id);
    if (!entry) return;
    entries.delete(id);
    idOf.delete(entry.hash);
  };

  return {
    find(phantomHash) {
      const entry = entries.get(idOf.get(keyOf(phantomHash)) ?? "");
      return entry && isFresh(entry) ? entry.session : undefined;
    },
    committed(row) {
      const before = entries.get(row.id);
      // Two commits may be told of in another order than they were made in: what is over stays so, and what was spent is spent.
      if (before && !before.session && isFresh(before)) return;
      const isOpen = row.state === "running" && row.desired === "run" && row.phantom_hash !== null;
      if (now() - allRungAt < freshMs) return;
      const session = isOpen ? spentAtLeast(phantomSessionOf(row), before?.session) : undefined;
      put(row.id, { session, hash: row.phantom_hash ? keyOf(row.phantom_hash) : "", at: now() });
    },
    rung(sessionId) {
      if (sessionId !== undefined) return put(sessionId, { session: undefined, hash: "", at: now() });
      allRungAt = now();
      for (const id of [...entries.keys()]) forget(id);
    },
  };
}

function spentAtLeast(session: PhantomSession, before: PhantomSession | undefined): PhantomSession {
  if (!before) return session;
  const spentMicros = Math.max(session.spentMicros, before.spentMicros);
  return { ...session, spentMicros, modelRequests: Math.max(session.modelRequests, before.modelRequests) };
}

function keyOf(hash: Uint8Array): string {
  return Buffer.from(hash).toString("base64");
}
