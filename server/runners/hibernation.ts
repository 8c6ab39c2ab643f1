// The steps that put a session away and bring it back. Each is one change under the lock of its row.
import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import type { Change } from "../journal/journal.ts";
import { isParked, unparked } from "../journal/rules.ts";
import { phaseEnded } from "../journal/start-phases.ts";
import { deleteCommands, type SessionRow } from "../journal/store.ts";
import { goOn } from "../journal/turns.ts";
import { nextBase } from "../snapshots/rules.ts";
import { listChain } from "../snapshots/store.ts";
import { isOnlyWaiting } from "./lost-turns.ts";
import { howToGoOn, tellReason } from "./parking.ts";
import { isUnused, nextGeneration } from "./rules.ts";
import { destroySandboxes, type StepDeps, unmoved } from "./step.ts";
import { dormant, hibernating, keptAwake, notRestored, puttingOff, restored, woken } from "./transitions.ts";

/** What the next snapshot may be an increment to; 0 when it is to hold everything. */
export async function baseOfNext(db: Kysely<Database>, session: Pick<SessionRow, "id" | "snapshot_generation">): Promise<number> {
  return nextBase(await listChain(db, session.id, session.snapshot_generation));
}

/** Asks the runner for a snapshot; the session is dormant once that is committed. */
export async function hibernate(deps: StepDeps, session: SessionRow): Promise<void> {
  await deps.journal.change(session.id, unmoved(session), async (change) => {
    if (!isUnused(change.session, change.now, deps.idleMs)) return;
    if (change.session.turn > 0 && !(await isOnlyWaiting(change))) return putOff(change);
    change.set(hibernating(change.now));
    const baseGeneration = await baseOfNext(change.tx, change.session);
    change.command({ case: "hibernate", value: { generation: nextGeneration(change.session), baseGeneration } });
  });
}

/** Beside what waits for a person something is at work, which would be lost; the next idle time looks again. */
function putOff(change: Change): void {
  if (change.session.desired === "hibernate") {
    const message = "the session stays awake: beside what waits for an answer, tools or sub-agents are at work";
    change.append({ case: "system", value: { subtype: "hibernation_failed", message } });
  }
  change.set(puttingOff(change.now));
}

/** A snapshot that takes too long is given up; the next idle time tries again. */
export async function stayAwake(deps: StepDeps, session: SessionRow): Promise<void> {
  await deps.journal.change(session.id, unmoved(session), (change) => keepAwake(change, "the snapshot took too long"));
}

/** The session goes on as if nobody had wanted to put it away, and its log says why. */
export async function keepAwake(change: Change, reason: string): Promise<void> {
  change.set(keptAwake(change.session, change.now));
  change.append({ case: "system", value: { subtype: "hibernation_failed", message: `the session stays awake: ${reason}` } });
  await goOn(change);
}

/** What the session looks like once its snapshot holds all of it. Its sandbox is still there, and worth nothing. */
export async function putAway(change: Change): Promise<void> {
  const { session, now } = change;
  // What its runner was asked for was meant for that one alone.
  await deleteCommands(change.tx, session.id, session.last_command_id);
  change.set(dormant(session, now));
}

/** Ends the sandbox of a dormant session and removes its files. */
export async function clear(deps: StepDeps, session: SessionRow): Promise<void> {
  await destroySandboxes(deps, session);
  await deps.settled(session.id);
  if (session.box) await deps.launcher.removeFiles(session.box);
  await deps.journal.change(session.id, unmoved(session), (change) => change.set({ box: null, handle: null }));
}

/** Asks for a new sandbox, which is given the snapshot before anything else. */
export async function wake(deps: StepDeps, session: SessionRow): Promise<void> {
  await deps.journal.change(session.id, unmoved(session), (change) => change.set(woken(change.now)));
}

/**
 * What the snapshot holds is back: only now the session runs, and its lifetime goes on.
 * @param maxSessionMs the lifetime of one that never ran.
 */
export async function finishRestore(change: Change, maxSessionMs: number): Promise<void> {
  const { start_marks: marks } = change.session;
  change.set({
    ...restored(change.session, change.now, maxSessionMs),
    ...unparked(change.session),
    start_marks: phaseEnded(marks, "restore", change.now),
  });
  change.append({ case: "system", value: { subtype: "resuming_sdk_session", message: "files and conversation are back" } });
  await goOn(change);
}

export async function giveUpRestore(deps: StepDeps, session: SessionRow): Promise<void> {
  const reason = "the sandbox was lost again and again while it was brought back";
  await deps.journal.change(session.id, unmoved(session), (change) => failRestore(change, reason));
}

/** The snapshot stays what it is, and the session is parked. */
export async function failRestore(change: Change, reason: string): Promise<void> {
  const cause = lacksRoom(reason) ? "no_room" : "other";
  const message = `the session could not be brought back${cause === "no_room" ? moreRoom : ""}: ${reason}`;
  change.set(notRestored(change.session, change.now));
  if (isParked(change.session)) tellReason(change, `${message}\n${howToGoOn}`);
  await putAway(change);
  change.append({ case: "system", value: { subtype: "resume_failed", message, details: { cause } } });
}

/** The disk is full, or the limits are lower than they were when it was put away. What the programs in the sandbox say of that. */
function lacksRoom(reason: string): boolean {
  return /No space left on device|Wrote only \d+ of \d+ bytes|ENOSPC|File too large|EFBIG|SIGXFSZ/.test(reason);
}

const moreRoom =
  ", because it holds more than a sandbox has room for: free disk space, or raise CARREL_LIMIT_WORKSPACE_BYTES and CARREL_LIMIT_HOME_BYTES to what they were and restart the server, then resume it";
