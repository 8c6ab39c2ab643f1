import type { PhantomSession } from "./phantom.ts";

/** What of a model request counts: a sub-agent's spends money but takes no turn; counting tokens does neither. */
export type ModelRequest = { subAgent: boolean; counted: boolean };

export type Cap = { subtype: "budget_exceeded" | "max_turns_reached"; message: string };

/** The cap that keeps a session from one more request; undefined when none does. Judged by the provider's answers so far. */
export function capReached(session: PhantomSession, takesTurn: boolean): Cap | undefined {
  const { spentMicros, maxBudgetMicros, modelRequests, maxTurns } = session;
  if (maxBudgetMicros !== null && spentMicros >= maxBudgetMicros) {
    return { subtype: "budget_exceeded", message: `the session has spent $${(spentMicros / 1e6).toFixed(4)} of $${maxBudgetMicros / 1e6}` };
  }
  if (maxTurns !== null && takesTurn && modelRequests >= maxTurns) {
    return { subtype: "max_turns_reached", message: `the session has used its ${maxTurns} turns` };
  }
  return undefined;
}

export function isCapped({ maxBudgetMicros, maxTurns }: PhantomSession): boolean {
  return maxBudgetMicros !== null || maxTurns !== null;
}
