import { type Journal, present } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import { keep, type Trouble } from "./patience.ts";

/**
 * What the provider did to a turn is seen in the session's log, with what a person can do about it. Each trouble once in a turn,
 * or between two: every request that is refused has one, and a sandbox may ask without end.
 */
export function createProviderNotices({ journal, log }: { journal: Journal; log: Log }) {
  const told = new Map<string, { turn: number; subtypes: Set<string> }>();
  return (sessionId: string, { subtype, message }: Trouble): Promise<void> =>
    journal
      .change(sessionId, present, ({ session, append }) => {
        if (session.state === "ended") return;
        const last = told.get(sessionId);
        const subtypes = last?.turn === session.turn ? last.subtypes : new Set<string>();
        if (subtypes.has(subtype)) return;
        append({ case: "system", value: { subtype, message } });
        keep(told, sessionId, { turn: session.turn, subtypes: subtypes.add(subtype) });
      })
      .catch((error: Error) => {
        told.delete(sessionId);
        log.warn({ session_id: sessionId, err: error }, "what the provider did is not in the session's log");
      });
}
