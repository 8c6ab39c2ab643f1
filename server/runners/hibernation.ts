// The steps that put a session away and bring it back. Each is one change under the lock of its row.
import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import type { Change } from "../journal/journal.ts";
import { deleteCommands, type SessionRow } from "../journal/store.ts";
import { goOn, isOccupied } from "../journal/turns.ts";
import { nextBase } from "../snapshots/rules.ts";
import { listChain } from "../snapshots/store.ts";
import { onlyWaits } from "./lost-turns.ts";
import { destroySandboxes, type StepDeps, unmoved } from "./step.ts";

/** The snapshot that would follow the current one. */
export function nextGeneration(session: Pick<SessionRow, "snapshot_generation">): number {
  return (session.snapshot_generation ?? 0) + 1;
}

/** What the next snapshot may be an increment to; 0 when it is to hold everything. */
export async function baseOfNext(db: Kysely<Database>, session: Pick<SessionRow, "id" | "snapshot_generation">): Promise<number> {
  return nextBase(await listChain(db, session.id, session.snapshot_generation));
}

/** Asks the runner for a snapshot; the session is dormant once that is committed. */
export async function hibernate(deps: StepDeps, session: SessionRow): Promise<void> {
  await deps.journal.change(session.id, unmoved(session), async (change) => {
    const { session: row, now } = change;
    const unwanted = row.desired === "hibernate" || now.getTime() - row.active_at.getTime() >= deps.idleMs;
    if (isOccupied(row) || !unwanted) return;
    if (row.turn > 0 && !(await onlyWaits(change))) return putOff(change);
    change.set({ desired: "hibernate", state: "hibernating", state_since: now });
    const baseGeneration = await baseOfNext(change.tx, row);
    change.command({ case: "hibernate", value: { generation: nextGeneration(row), baseGeneration } });
  });
}

/** Beside what waits for a person something is at work, which would be lost; the next idle time looks again. */
function putOff(change: Change): void {
  if (change.session.desired === "hibernate") {
    const message = "the session stays awake: beside what waits for an answer, tools or sub-agents are at work";
    change.append({ case: "system", value: { subtype: "hibernation_failed", message } });
  }
  change.set({ desired: "run", active_at: change.now });
}

/** A snapshot that takes too long is given up; the next idle time tries again. */
export async function stayAwake(deps: StepDeps, session: SessionRow): Promise<void> {
  await deps.journal.change(session.id, unmoved(session), (change) => keepAwake(change, "the snapshot took too long"));
}

/** The session goes on as if nobody had wanted to put it away, and its log says why. */
export async function keepAwake(change: Change, reason: string): Promise<void> {
  const { now } = change;
  change.set({ desired: "run", state: "running", state_since: now, active_at: now });
  change.append({ case: "system", value: { subtype: "hibernation_failed", message: `the session stays awake: ${reason}` } });
  await goOn(change);
}

/** What the session looks like once its snapshot holds all of it. Its sandbox is still there, and worth nothing. */
export async function putAway(change: Change): Promise<void> {
  const { session, now } = change;
  // While it was brought back nothing of its lifetime was used, and what was left is still written down.
  const left = session.restoring || session.ends_at === null ? session.life_left_ms : session.ends_at.getTime() - now.getTime();
  // What its runner was asked for was meant for that one alone.
  await deleteCommands(change.tx, session.id, session.last_command_id);
  change.set({
    state: "dormant",
    state_since: now,
    acked_command_id: session.last_command_id,
    lease_hash: null,
    attach_hash: null,
    phantom_hash: null,
    lease_until: null,
    restoring: false,
    life_left_ms: left === null ? null : Math.max(0, left),
    ends_at: session.ttl_seconds === null ? null : new Date(session.created_at.getTime() + session.ttl_seconds * 1000),
  });
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
  await deps.journal.change(session.id, unmoved(session), (change) => {
    change.set({ state: "requested", state_since: change.now, restoring: true });
  });
}

/**
 * What the snapshot holds is back: only now the session runs, and its lifetime goes on.
 * @param maxSessionMs the lifetime of one that never ran.
 */
export async function finishRestore(change: Change, maxSessionMs: number): Promise<void> {
  const { session, now } = change;
  const left = session.life_left_ms ?? maxSessionMs;
  change.set({
    restoring: false,
    restarts: 0,
    state: "running",
    state_since: now,
    active_at: now,
    life_left_ms: null,
    ends_at: new Date(Math.min(now.getTime() + left, session.ends_at?.getTime() ?? Number.POSITIVE_INFINITY)),
  });
  change.append({ case: "system", value: { subtype: "resuming_sdk_session", message: "files and conversation are back" } });
  await goOn(change);
}

export async function giveUpRestore(deps: StepDeps, session: SessionRow): Promise<void> {
  const reason = "the sandbox was lost again and again while it was brought back";
  await deps.journal.change(session.id, unmoved(session), (change) => failRestore(change, reason));
}

/** The snapshot stays what it is; the next prompt, or ResumeSession, tries again. */
export async function failRestore(change: Change, reason: string): Promise<void> {
  change.set({ desired: "hibernate" });
  await putAway(change);
  change.append({ case: "system", value: { subtype: "resume_failed", message: `the session could not be brought back: ${reason}` } });
}
