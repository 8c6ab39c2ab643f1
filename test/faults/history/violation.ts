import type { Evidence } from "./evidence.ts";

/** What kind of damage a violation is, as the figures of a run count it. */
export type Damage = "lost" | "doubled" | "hole" | "stuck" | "orphan" | "broken";

/** What one invariant finds in a history. */
export type Find = (evidence: Evidence) => { damage: Damage; message: string }[];

export function found(damage: Damage, messages: readonly string[]): ReturnType<Find> {
  return messages.map((message) => ({ damage, message }));
}
