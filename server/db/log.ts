/** What the database plumbing needs of a logger: fields first, then a constant message. A pino logger fits. */
export type DatabaseLog = Record<"debug" | "info" | "warn" | "error", (fields: object, message: string) => void>;
