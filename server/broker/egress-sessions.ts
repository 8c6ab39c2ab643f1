/** How much of the proxy one session may use. */
export type EgressLimits = {
  /** Open at the same time. Default 128. */
  connections: number;
  /** Asked for within a minute. Default 1,200. */
  attemptsPerMinute: number;
  /** Denials told within a minute, of which each host has one. Default 30. */
  denialsPerMinute: number;
  /** Milliseconds without a byte in either direction after which a connection is cut. Default 600,000. */
  idleMs: number;
};

export const defaultEgressLimits: EgressLimits = { connections: 128, attemptsPerMinute: 1_200, denialsPerMinute: 30, idleMs: 600_000 };

export type EgressSessions = {
  /** Takes a place; the answer gives it back, once. Undefined when the session has all it may have. */
  admit(sessionId: string): (() => void) | undefined;
  /** Whether a denial of the host is to be told: the first of its minute. */
  isNews(sessionId: string, host: string): boolean;
};

type Account = { open: number; since: number; attempts: number; told: Set<string> };

const minute = 60_000;

/** @param now milliseconds on any clock that does not go back. */
export function createEgressSessions(limits: Omit<EgressLimits, "idleMs">, now: () => number): EgressSessions {
  const accounts = new Map<string, Account>();

  const accountOf = (sessionId: string): Account => {
    const known = accounts.get(sessionId);
    if (known && now() - known.since < minute) return known;
    if (!known) forgetIdle();
    const fresh = { open: known?.open ?? 0, since: now(), attempts: 0, told: new Set<string>() };
    // The same object, because open connections hold it.
    const account = known ? Object.assign(known, fresh) : fresh;
    accounts.set(sessionId, account);
    return account;
  };
  const forgetIdle = (): void => {
    for (const [id, { open, since }] of accounts) if (open === 0 && now() - since >= minute) accounts.delete(id);
  };

  return {
    admit(sessionId) {
      const account = accountOf(sessionId);
      account.attempts += 1;
      if (account.open >= limits.connections || account.attempts > limits.attemptsPerMinute) return undefined;
      account.open += 1;
      let held = true;
      return () => {
        if (held) account.open -= 1;
        held = false;
      };
    },
    isNews(sessionId, host) {
      const { told } = accountOf(sessionId);
      if (told.has(host) || told.size >= limits.denialsPerMinute) return false;
      told.add(host);
      return true;
    },
  };
}
