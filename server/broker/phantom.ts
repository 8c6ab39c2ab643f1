import type { SessionCore } from "../journal/store.ts";

/** The live session that a phantom token belongs to, with what its caps are judged by. */
export type PhantomSession = {
  sessionId: string;
  ownerId: string;
  epoch: number;
  box: string | null;
  /** The turn it is in; 0 between two. */
  turn: number;
  spentMicros: number;
  maxBudgetMicros: number | null;
  /** Round trips of the agent itself so far. */
  modelRequests: number;
  maxTurns: number | null;
};

/** What of a session's row it is made of. */
export const phantomColumns = [
  "id",
  "owner_id",
  "epoch",
  "box",
  "turn",
  "usage",
  "max_budget_micros",
  "model_requests",
  "max_turns",
] as const satisfies readonly (keyof SessionCore)[];

export function phantomSessionOf(row: Pick<SessionCore, (typeof phantomColumns)[number]>): PhantomSession {
  return {
    sessionId: row.id,
    ownerId: row.owner_id,
    epoch: row.epoch,
    box: row.box,
    turn: row.turn,
    spentMicros: row.usage.cost_micros,
    maxBudgetMicros: row.max_budget_micros,
    modelRequests: row.model_requests,
    maxTurns: row.max_turns,
  };
}
