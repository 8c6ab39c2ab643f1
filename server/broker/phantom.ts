/** The live session that a phantom token belongs to, with what its caps are judged by. */
export type PhantomSession = {
  sessionId: string;
  ownerId: string;
  epoch: number;
  box: string | null;
  spentMicros: number;
  maxBudgetMicros: number | null;
  /** Round trips of the agent itself so far. */
  modelRequests: number;
  maxTurns: number | null;
};
