// How long the phases of a session's start took. Pure: what writes the row anyway adds a mark to it.

/** In the order in which they come; files are brought back only where there are any to be. */
const phases = ["sandbox", "runner", "restore", "agent"] as const;

/**
 * `sandbox`: its first process runs. `runner`: its runner has attached. `restore`: files and conversation are back.
 * `agent`: it has answered and takes prompts.
 */
export type StartPhaseWord = (typeof phases)[number];

/** When a start began and each phase of it ended, milliseconds since 1970 by the database's clock. */
export type StartMarks = { began: number } & Partial<Record<StartPhaseWord, number>>;

export function startBegun(now: Date): StartMarks {
  return { began: now.getTime() };
}

/** A phase ends once; null where no start is on record. */
export function phaseEnded(marks: StartMarks | null, phase: StartPhaseWord, at: Date): StartMarks | null {
  return marks === null || marks[phase] !== undefined ? marks : { ...marks, [phase]: at.getTime() };
}

/** The phases that have ended, with their milliseconds: what was ready before its turn took none. */
export function timedPhases(marks: StartMarks | null): { phase: StartPhaseWord; durationMs: number }[] {
  if (marks === null) return [];
  // A runner may attach while its sandbox is being written down.
  const ends = { ...marks, ...(marks.sandbox && marks.runner ? { sandbox: Math.min(marks.sandbox, marks.runner) } : {}) };
  let before = marks.began;
  return phases.flatMap((phase) => {
    const end = ends[phase];
    if (end === undefined) return [];
    const durationMs = Math.max(0, end - before);
    before = Math.max(before, end);
    return [{ phase, durationMs }];
  });
}

/** The phase that a start is in; undefined when it is over. */
export function phaseUnderWay(marks: StartMarks | null, restoring: boolean): StartPhaseWord | undefined {
  return marks === null ? undefined : phases.find((phase) => marks[phase] === undefined && (phase !== "restore" || restoring));
}

/** The same for the agent, of which its runner says how long after its attaching it was ready; in the future it cannot be. */
export function agentReady(marks: StartMarks | null, now: Date, afterAttachingMs: number): StartMarks | null {
  const at = (marks?.runner ?? 0) + afterAttachingMs;
  return phaseEnded(marks, "agent", new Date(Math.min(at, now.getTime())));
}
