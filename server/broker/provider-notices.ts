import { type Journal, present } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Trouble } from "./patience.ts";

/** What the provider did to a turn is seen in the session's log, with what a person can do about it. */
export function createProviderNotices({ journal, log }: { journal: Journal; log: Log }) {
  return (sessionId: string, { subtype, message }: Trouble): Promise<void> =>
    journal
      .change(sessionId, present, ({ session, append }) => {
        if (session.state !== "ended") append({ case: "system", value: { subtype, message } });
      })
      .catch((error: Error) => log.warn({ session_id: sessionId, err: error }, "what the provider did is not in the session's log"));
}
