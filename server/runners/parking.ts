// What comes of a step that failed: it is counted in the session's row and tried again later, until the session is parked.
import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import { passingFailure } from "../db/failures.ts";
import type { Change, Guard } from "../journal/journal.ts";
import { isParked } from "../journal/rules.ts";
import { sealText } from "../journal/seal.ts";
import type { SessionRow } from "../journal/store.ts";
import { withOutput } from "./output.ts";
import { hasGotFurther, type Step, setback } from "./rules.ts";
import { SessionMoved, type StepDeps } from "./step.ts";
import { databaseNow, parkSilently, recordSetback } from "./store.ts";
import { parked } from "./transitions.ts";

export type ParkingDeps = Pick<StepDeps, "journal" | "launcher" | "log" | "stepTries" | "parkAfterMs"> & { db: Kysely<Database> };

/** That the database was away is nobody's fault, and soon over. */
const databasePauseMs = 2_000;

/** Said with every reason to be parked. */
export const howToGoOn = "Nothing of it is lost. A prompt, or to resume it, tries again.";

/** The event of a session's log that says that it is parked. */
const parking = "parked";

/** Counts a failure of `step` against the session. */
export async function setBack(deps: ParkingDeps, session: SessionRow, step: Step, error: unknown): Promise<void> {
  const about = { session_id: session.id, step, err: error };
  if (passingFailure(error)) {
    deps.log.warn(about, "session step failed of the database");
    return recordSetback(deps.db, session, session.failures, databasePauseMs);
  }
  const now = await databaseNow(deps.db);
  const { failures, pauseMs, parks } = setback(session, step, deps, { now, random: Math.random() });
  if (!parks) {
    deps.log.warn({ ...about, times: failures }, "session step failed");
    return recordSetback(deps.db, session, failures, pauseMs);
  }
  deps.log.error({ ...about, times: failures }, "session parked: its steps failed too often");
  await park(deps, session, step, failures);
}

async function park(deps: ParkingDeps, session: SessionRow, step: Step, failures: number): Promise<void> {
  try {
    await deps.journal.change(session.id, unhindered(session, step), async (change) => {
      const { box } = change.session;
      const what = `The session is parked: ${failedAt[step]}, ${failures} times in a row.`;
      const report = `The operator's log says why, under ${session.id} at ${change.now.toISOString()}.`;
      change.set(parked(failures, change.now));
      change.append({ case: "system", value: { subtype: parking, message: `${what} ${howToGoOn} ${report}` } });
      // Nothing has run since whatever it was that the sandbox of another step printed.
      const output = step === "launch" && box ? await deps.launcher.lastOutput(box) : "";
      tellReason(change, `${what}\n${howToGoOn}\n${report}`, output);
    });
  } catch (error) {
    if (error instanceof SessionMoved || passingFailure(error)) throw error;
    deps.log.error({ session_id: session.id, err: error }, "nobody can be told that a session is parked");
    await parkSilently(deps.db, session, failures);
  }
}

/** What the owner reads in `error_message`. */
export function tellReason(change: Change, reason: string, output = ""): void {
  const sealed = sealText(change.vault, change.session.id, "error_message", withOutput(reason, output));
  change.set({ error_message: Buffer.from(sealed) });
}

/** Refuses when somebody has asked for the session meanwhile, another server has parked it, or it goes on after all. */
function unhindered(seen: SessionRow, step: Step): Guard {
  return (row) => {
    const isSame = row?.failures === seen.failures && row.desired === seen.desired && !isParked(row);
    if (row && isSame && !hasGotFurther(row, seen, step)) return row;
    throw new SessionMoved();
  };
}

/** In the owner's words; ends are never parked. */
const failedAt: Partial<Record<Step, string>> = {
  wait: "it could not be seen how its sandbox is",
  launch: "its sandbox could not be started",
  recover: "its sandbox was lost and could not be replaced",
  give_up_restore: "it could not be brought back",
  hibernate: "it could not be put away",
  stay_awake: "it could not be kept awake",
  clear: "the sandbox it had could not be removed",
  wake: "it could not be woken",
};
