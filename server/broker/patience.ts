// How long a failing provider is asked again: the agent repeats what failed by itself, with a pause that grows. What gets
// through to the provider is bounded here, where the agent has no say.

/**
 * What a person is told when it is no use to go on: a word, and what happened with what to do next. `refused` when the
 * provider would not have it at all, however long one waits.
 */
export type Trouble = { subtype: string; message: string; refused: boolean };

/** How a request came to nothing. `said` are the provider's own words. */
export type Failure =
  | { kind: "refused"; status: number; said: string; retryAfterMs: number }
  | { kind: "silent"; afterMs: number; begun: boolean }
  | { kind: "cut" }
  | { kind: "unreachable" };

/**
 * Who asks: a session of a person, and in it the agent or one of its sub-agents, each of which repeats for itself. Which of them
 * it is says the agent, and may say anything; the turn is the server's own word.
 */
export type Asker = { ownerId: string; sessionId: string; turn: number; agent: string };

export type Patience = {
  /** Undefined lets a request through; else how long it has to wait, or why there will be no answer. */
  hold(asker: Asker): { retryAfterMs: number } | Trouble | undefined;
  /** Notes a failure. A trouble says that repeating is no use: nobody is to be let go on. */
  failed(asker: Asker, failure: Failure): Trouble | undefined;
  /** Notes an answer that came whole. */
  answered(asker: Asker): void;
  /** Lets everybody of a person ask again at once: the provider knows them by another key from now on. */
  forget(ownerId: string): void;
};

export type PatienceOptions = {
  /** Failures in a row after which it is enough. Silence counts for half of them. */
  tries: number;
  now?(): number;
};

/** A provider that wants to be left alone for longer than this is not waited for in a turn. */
const longestWaitMs = 60_000;
/** It is asked again after this whatever it said: a limit may be lifted before, and one wrong header is not to lock a session out. */
const longestRestMs = 300_000;
/** A row of failures is over after this. */
const forgottenMs = 600_000;
const remembered = 10_000;
/** So many agents of a session may use up their tries in a turn: it is over for all of them then, whatever they call themselves. */
const losersInTurn = 4;

type Row = Pick<Asker, "ownerId"> & { failures: number; at: number; last: string };
/** Failures of all agents of a session since the last answer that any of them got, in one turn. */
type SessionRow = Row & Pick<Asker, "turn">;
/** What the provider said, `until`, and how long it is believed. Milliseconds since 1970. */
type Rest = { ownerId: string; until: number; believedUntil: number };

export function createPatience({ tries, now = Date.now }: PatienceOptions): Patience {
  const rows = new Map<string, Row>();
  const sessions = new Map<string, SessionRow>();
  const rests = new Map<string, Rest>();
  const keyOf = ({ sessionId, agent }: Asker): string => `${sessionId}/${agent}`;
  const isRecent = (row: Row | undefined): row is Row => row !== undefined && now() - row.at < forgottenMs;
  const rowOf = (asker: Asker): Row | undefined => {
    const row = rows.get(keyOf(asker));
    return isRecent(row) ? row : undefined;
  };
  /** The next turn begins anew. */
  const sessionRowOf = ({ sessionId, turn }: Asker): Row | undefined => {
    const row = sessions.get(sessionId);
    return isRecent(row) && row.turn === turn ? row : undefined;
  };
  /** Whose tries are used up: the session's for the rest of the turn, an agent's for this time. */
  const enough = (asker: Asker): Trouble | undefined => {
    const session = sessionRowOf(asker);
    if (session && session.failures >= losersInTurn * tries) return failing(session);
    const row = rowOf(asker);
    if (!row || row.failures < tries) return undefined;
    rows.delete(keyOf(asker));
    return failing(row);
  };
  const note = (asker: Asker, failure: Failure): void => {
    const { ownerId, sessionId, turn } = asker;
    const count = failure.kind === "silent" ? Math.ceil(tries / 2) : 1;
    const noted = { ownerId, at: now(), last: wordsOf(failure) };
    const after = (row: Row | undefined): Row => ({ ...noted, failures: (row?.failures ?? 0) + count });
    keep(rows, keyOf(asker), after(rowOf(asker)));
    keep(sessions, sessionId, { ...after(sessionRowOf(asker)), turn });
  };

  return {
    hold(asker) {
      const rest = rests.get(asker.sessionId);
      if (rest && now() < rest.believedUntil) {
        const waitMs = rest.until - now();
        return waitMs > longestWaitMs ? busy(waitMs, now()) : { retryAfterMs: waitMs };
      }
      rests.delete(asker.sessionId);
      return enough(asker);
    },
    failed(asker, failure) {
      const final = finalTrouble(failure);
      if (final) return final;
      const retryAfterMs = failure.kind === "refused" ? failure.retryAfterMs : 0;
      if (retryAfterMs > 0) {
        const believedUntil = now() + Math.min(retryAfterMs, longestRestMs);
        keep(rests, asker.sessionId, { ownerId: asker.ownerId, until: now() + retryAfterMs, believedUntil });
      }
      if (retryAfterMs > longestWaitMs) return busy(retryAfterMs, now());
      note(asker, failure);
      // What has begun cannot be refused any more: then the next request is.
      const begun = failure.kind === "cut" || (failure.kind === "silent" && failure.begun);
      return begun ? undefined : enough(asker);
    },
    answered(asker) {
      rows.delete(keyOf(asker));
      sessions.delete(asker.sessionId);
    },
    forget(ownerId) {
      for (const noted of [rests, sessions, rows]) for (const [key, one] of noted) if (one.ownerId === ownerId) noted.delete(key);
    },
  };
}

/** For requests that nothing is concluded from: each is asked of the provider, and its answer is passed on as it is. */
export const indifference: Pick<Patience, "hold" | "failed" | "answered"> = {
  hold: () => undefined,
  failed: () => undefined,
  answered: () => undefined,
};

/** Whether an answer is one that another try may better. */
export function isPassing(status: number): boolean {
  return status === 408 || status === 409 || status === 429 || status >= 500;
}

/** What no other try will change. */
function finalTrouble(failure: Failure): Trouble | undefined {
  if (failure.kind !== "refused" || isPassing(failure.status)) return undefined;
  if (failure.status === 401)
    return {
      subtype: "provider_refused_key",
      refused: true,
      // Without the provider's words: of some of them the agent makes its own.
      message: "the model provider refused the stored key: store a new one with `carrel auth claude set-key`, then send the prompt again",
    };
  return {
    subtype: "provider_refused",
    refused: true,
    message: `the model provider refused (${failure.said}): mend that with the provider, then send the prompt again`,
  };
}

function failing({ failures, last }: Row): Trouble {
  const times = failures === 1 ? "" : " again and again";
  const message = `the model provider failed${times}, at last ${last}: send the prompt again in a while`;
  return { subtype: "provider_failing", refused: false, message };
}

function busy(waitMs: number, now: number): Trouble {
  const at = new Date(now + waitMs).toISOString().replace(/\.\d+Z$/, "Z");
  const message = `the model provider wants to be left alone for ${Math.ceil(waitMs / 1000)} s: send the prompt again after ${at}`;
  return { subtype: "provider_busy", refused: false, message };
}

function wordsOf(failure: Failure): string {
  switch (failure.kind) {
    case "refused":
      return `with ${failure.status} (${failure.said})`;
    case "silent":
      return `by saying nothing for ${failure.afterMs / 1000} s`;
    case "cut":
      return "in the middle of an answer";
    case "unreachable":
      return "because it could not be reached";
  }
}

/** Notes an entry of a map that stays bounded: the one that was noted first makes room. */
export function keep<Value>(map: Map<string, Value>, key: string, value: Value): void {
  map.delete(key);
  map.set(key, value);
  const oldest = map.keys().next();
  if (map.size > remembered && !oldest.done) map.delete(oldest.value);
}
