import type { LockedSession, SessionCore, Written } from "./store.ts";

/** A row as this process left it, and Postgres's version of it, which tells whether it is still so. */
export type KnownSession = { row: LockedSession; version: string };

/** How this process left the sessions whose runners it serves. Nothing depends on what is in it. */
export type KnownSessions = {
  /** Taken out, so that of several changes at once one tries it and the others do not try in vain. */
  take(sessionId: string): KnownSession | undefined;
  remember(session: SessionCore, written: Written): void;
};

/** A row is a few KB. The one that was not asked for longest makes room. */
const most = 1_000;

export function createKnownSessions(): KnownSessions {
  const known = new Map<string, { session: SessionCore; version: string; at: number; since: number }>();
  return {
    take(sessionId) {
      const left = known.get(sessionId);
      if (!left) return undefined;
      known.delete(sessionId);
      // The database's clock, from what it said then and the time since.
      const locked_at = new Date(left.at + performance.now() - left.since);
      return { row: { ...left.session, locked_at }, version: left.version };
    },
    remember(session, { version, at }) {
      known.delete(session.id);
      if (session.state === "ended") return;
      known.set(session.id, { session: withoutPrompt(session), version, at: at.getTime(), since: performance.now() });
      if (known.size > most) known.delete(known.keys().next().value!);
    },
  };
}

/** Under the lock the whole row was read. */
function withoutPrompt(session: SessionCore & { initial_prompt?: unknown }): SessionCore {
  const { initial_prompt: _initialPrompt, ...core } = session;
  return core;
}
