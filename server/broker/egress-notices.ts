import { type Journal, present } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Caller } from "./callers.ts";
import type { EgressDecision } from "./egress-rules.ts";

/** Refused connections are seen in the session's log, with what to allow; opened ones are many and only logged. */
export function createEgressNotices({ journal, log }: { journal: Journal; log: Log }) {
  return ({ sessionId }: Caller, { host, port, allowed, reason }: EgressDecision): void => {
    if (allowed) return;
    const message = `the agent was kept from ${host}:${port} (${reason})`;
    journal
      .change(sessionId, present, ({ session, append }) => {
        if (session.state !== "ended")
          append({ case: "system", value: { subtype: "egress_denied", message, details: { host, port, reason } } });
      })
      .catch((error: Error) => log.warn({ session_id: sessionId, err: error }, "a refused connection is not in the session's log"));
  };
}
