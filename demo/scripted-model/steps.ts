import type { Usage } from "./wire.ts";

export interface ToolCall {
  name: string;
  input: Record<string, unknown>;
}

/**
 * One thing the scripted model does. Steps come from a script or from directives in a prompt.
 * `times` on a fault: it happens on the first so many attempts at this place of the conversation
 * and is skipped afterwards; absent means always.
 */
export type Step =
  | { do: "think"; text: string }
  | { do: "text"; text: string; pace?: number }
  /** Several calls are made in parallel, in one answer; what follows waits for their results. */
  | { do: "tools"; calls: ToolCall[] }
  | { do: "pause"; ms: number }
  | { do: "status"; code: number; type?: string; message?: string; headers: Record<string, string>; times?: number }
  | { do: "hang"; times?: number }
  /** Sends so many tokens of text, then destroys the connection. */
  | { do: "cut"; after: number; times?: number }
  | { do: "error_event"; type: string; message?: string; times?: number }
  | { do: "usage"; usage: Partial<Usage> }
  | { do: "stop"; reason: string };

/**
 * Splits steps into the answers they make: an answer ends with its tool calls, because the model
 * has to wait for the results.
 */
export function splitAnswers(steps: readonly Step[]): Step[][] {
  const answers: Step[][] = [[]];
  for (const step of steps) {
    answers.at(-1)?.push(step);
    if (step.do === "tools") answers.push([]);
  }
  return answers.at(-1)?.length === 0 && answers.length > 1 ? answers.slice(0, -1) : answers;
}

/** Steps after which nothing of the answer can follow. */
export type Fault = Extract<Step, { do: "status" | "error_event" | "hang" | "cut" }>;

export function isFault(step: Step): step is Fault {
  return step.do === "status" || step.do === "error_event" || step.do === "hang" || step.do === "cut";
}

/**
 * Where an answer that broke off goes on when the agent asks for the rest: at its last break, which
 * may happen again as often as its `times` says, or after its last plain stop. 0 when nothing in it breaks off.
 */
export function resumeAt(steps: readonly Step[]): number {
  const brokeAt = steps.findLastIndex((step) => step.do === "cut" || step.do === "error_event" || step.do === "stop");
  return brokeAt === -1 ? 0 : brokeAt + (steps[brokeAt]?.do === "stop" ? 1 : 0);
}
