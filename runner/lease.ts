/** The right of this runner to act for its session; every call names it. */
export type Lease = { sessionId: string; epoch: number };
