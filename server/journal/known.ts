import type { LockedSession, SessionCore, Written } from "./store.ts";

/** A row as this process left it, and Postgres's version of it, which tells whether it is still so. */
export type KnownSession = { row: LockedSession; version: string };

/** How this process left the sessions whose runners it serves. Nothing depends on what is in it. */
export type KnownSessions = {
  /** Taken out, so that of several changes at once one tries it and the others do not try in vain. */
  take(sessionId: string): KnownSession | undefined;
  remember(session: SessionCore, written: Written): void;
};

/** A row is a few KB as a rule, and some hundred with a full profile. Past either, those that were not asked for longest make room. */
const most = { rows: 1_000, bytes: 16 * 1024 * 1024 };

type Left = { session: SessionCore; version: string; at: number; since: number; bytes: number };

export function createKnownSessions(): KnownSessions {
  const known = new Map<string, Left>();
  let bytes = 0;
  const drop = (sessionId: string): Left | undefined => {
    const left = known.get(sessionId);
    if (left) bytes -= left.bytes;
    known.delete(sessionId);
    return left;
  };
  return {
    take(sessionId) {
      const left = drop(sessionId);
      if (!left) return undefined;
      // The database's clock, from what it said then and the time since.
      const locked_at = new Date(left.at + performance.now() - left.since);
      return { row: { ...left.session, locked_at }, version: left.version };
    },
    remember(whole, { version, at }) {
      drop(whole.id);
      if (whole.state === "ended") return;
      const session = withoutPrompt(whole);
      const left = { session, version, at: at.getTime(), since: performance.now(), bytes: weightOf(session) };
      known.set(session.id, left);
      bytes += left.bytes;
      while (known.size > most.rows || bytes > most.bytes) drop(known.keys().next().value!);
    },
  };
}

/** About what a value takes in memory, in bytes: the larger it is, the closer this comes. */
function weightOf(value: unknown): number {
  if (typeof value === "string") return 16 + 2 * value.length;
  if (value instanceof Uint8Array) return 100 + value.byteLength;
  if (typeof value !== "object" || value === null) return 8;
  return Object.values(value).reduce<number>((sum, part) => sum + weightOf(part), 32);
}

/** Under the lock the whole row was read. */
function withoutPrompt(session: SessionCore & { initial_prompt?: unknown }): SessionCore {
  const { initial_prompt: _initialPrompt, ...core } = session;
  return core;
}
