// The steps of the reconciler. Each reads nothing but the row it is given and writes under that row's lock; a step that
// was overtaken refuses and the next look decides anew.
import { newId } from "../ids.ts";
import { requestEnd } from "../journal/ends.ts";
import { type Change, present } from "../journal/journal.ts";
import { closeOpenPauses } from "../journal/pauses.ts";
import { type EndReasonWord, endReasons } from "../journal/session-view.ts";
import { phaseEnded, phaseUnderWay, startBegun } from "../journal/start-phases.ts";
import { clearQueues, deleteCommands, type SessionCore, type SessionRow } from "../journal/store.ts";
import type { SandboxHandle } from "../sandbox/driver.ts";
import { baseOfNext, clear, giveUpRestore, hibernate, stayAwake, wake } from "./hibernation.ts";
import { settleTurn } from "./lost-turns.ts";
import { withOutput } from "./output.ts";
import { endsTurn, report } from "./report.ts";
import { alreadyCommitted, nextGeneration, type Step } from "./rules.ts";
import { readSpool } from "./spool.ts";
import { destroySandboxes, type StepDeps, type TakeStep, unmoved } from "./step.ts";
import { newToken } from "./tokens.ts";
import { ended, ending, launched, recovered, unlaunched } from "./transitions.ts";

export const steps: Record<Exclude<Step, "wait">, TakeStep> = {
  launch,
  recover,
  give_up: (deps, session) => wishEnd(deps, session, "heartbeat_stale", "the runner was lost and could not be brought back"),
  expire: (deps, session) => wishEnd(deps, session, "max_duration_exceeded", "the session reached the end of its lifetime"),
  give_up_restore: giveUpRestore,
  startup_timeout: (deps, session) => wishEnd(deps, session, "startup_timeout", "the agent did not start in time"),
  hibernate,
  stay_awake: stayAwake,
  clear,
  wake,
  ask_to_end: askToEnd,
  force_end: end,
  erase,
};

/** A new conversation takes a sandbox that stands by, if there is one; everything else starts its own. */
async function launch(deps: StepDeps, session: SessionRow): Promise<void> {
  // Half of a snapshot is nobody's work. It goes here and not when its runner is found lost: until that one's epoch was over,
  // its last word could still arrive, that everything is back.
  if (session.restoring && session.box) await deps.launcher.removeFiles(session.box);
  const kept = session.restoring ? null : session.box;
  const ready = kept === null ? deps.standby.take() : undefined;
  const box = ready?.box ?? kept ?? newId("box");
  const attachToken = ready?.attachToken ?? newToken("attach");
  const phantomToken = ready?.phantomToken ?? newToken("phantom");
  const epoch = await deps.journal
    .change(session.id, unmoved(session), (change) => {
      change.set({
        ...launched(change.session, change.now, deps.startupTimeoutMs),
        start_marks: startBegun(change.now),
        box,
        attach_hash: Buffer.from(deps.hashToken(attachToken)),
        phantom_hash: Buffer.from(deps.hashToken(phantomToken)),
      });
      return change.session.epoch;
    })
    .catch(async (error: unknown) => {
      if (ready) {
        await deps.launcher.destroy(ready.handle);
        await deps.launcher.removeFiles(ready.box);
      }
      throw error;
    });
  if (ready) await deps.launcher.hurry(ready.handle);
  ready?.assign();
  const boot = {
    attachToken,
    phantomToken,
    resume: session.restoring ? "" : (session.sdk_session_id ?? ""),
    restore: session.restoring,
    model: session.model,
    planMode: session.permission_mode === "plan",
  };
  const handle =
    ready?.handle ??
    (await deps.launcher.launch(box, epoch, boot).catch((error: unknown) => failStart(deps, { ...session, box, epoch }, error)));
  await keepHandle(deps, session.id, epoch, handle);
}

/** A start that has failed is not waited for: nothing is left of it, and it can be tried again. */
async function failStart(deps: StepDeps, session: Pick<SessionRow, "id" | "box" | "epoch">, cause: unknown): Promise<never> {
  const isGone = await destroySandboxes(deps, { ...session, handle: null }).then(
    () => true,
    (error: Error) => {
      deps.log.warn({ session_id: session.id, err: error }, "what was started of a sandbox was not ended");
      return false;
    },
  );
  await deps.journal.change(session.id, present, ({ session: row, now, set }) => {
    if (row.epoch === session.epoch && row.state === "starting") set(isGone ? unlaunched(row, now) : { lease_until: now });
  });
  // By itself: not to be taken for a failure of the database, which starts no sandboxes.
  throw new Error("the sandbox could not be started", { cause });
}

/** Ties a sandbox to its session; one that its session no longer wants is ended again at once. */
export async function keepHandle(deps: StepDeps, sessionId: string, epoch: number, handle: SandboxHandle): Promise<void> {
  const kept = await deps.journal
    .change(sessionId, present, (change) => {
      if (change.session.epoch !== epoch || change.session.state === "ended") return false;
      change.set({ handle, start_marks: phaseEnded(change.session.start_marks, "sandbox", change.now) });
      return true;
    })
    .catch(async (error: unknown) => {
      await deps.launcher.destroy(handle);
      throw error;
    });
  if (kept) deps.onStarted(sessionId, handle);
  else await deps.launcher.destroy(handle);
}

/**
 * Puts into the log what the runner had reported and could not say any more, before anything is decided about its turn. Only
 * when its sandbox is gone. Each event is taken once, however often this is done and wherever it was cut short.
 */
async function hearSpool(deps: StepDeps, session: SessionRow): Promise<void> {
  if (!session.box || !session.lease_hash) return;
  for await (const batch of readSpool(deps.launcher.spoolPath(session.box), session.epoch)) {
    if (endsTurn(batch)) await deps.settled(session.id);
    const follows = await deps.journal.change(session.id, unmoved(session), async (change) => {
      if ("expected" in alreadyCommitted(change.session.last_runner_seq, batch.firstRunnerSeq, batch.events.length)) return false;
      await report(change, batch);
      return true;
    });
    if (!follows) return;
  }
}

/** Ends the old sandbox first: two runners over one workspace are never alive together. */
async function recover(deps: StepDeps, session: SessionRow): Promise<void> {
  await destroySandboxes(deps, session);
  await hearSpool(deps, session);
  await deps.journal.change(session.id, unmoved(session), async (change) => {
    const { now, session: row } = change;
    change.set(recovered(row, now, deps.restartWindowMs));
    // What the lost runner was asked for was meant for it alone; a new one must not be given the prompt a second time.
    await deleteCommands(change.tx, row.id, row.last_command_id);
    await settleTurn(change);
  });
}

async function askToEnd(deps: StepDeps, session: SessionRow): Promise<void> {
  await deps.journal.change(session.id, unmoved(session), async (change) => {
    change.set(ending(change.now));
    // What was said and done can be forked afterwards; where nothing was, there is nothing to keep.
    const generation = change.session.sdk_session_id && !change.session.restoring ? nextGeneration(change.session) : 0;
    const baseGeneration = generation > 0 ? await baseOfNext(change.tx, change.session) : 0;
    change.command({ case: "terminate", value: { generation, baseGeneration } });
  });
}

async function end(deps: StepDeps, session: SessionRow): Promise<void> {
  const exitCode = session.handle ? await deps.launcher.exitCode(session.handle) : null;
  await destroySandboxes(deps, session);
  await hearSpool(deps, session);
  // Nothing may take up a model request again before its bill is in.
  await deps.settled(session.id);
  // The session ends whether or not its files can be removed; what stays is swept at the next start.
  if (session.box)
    await deps.launcher
      .removeFiles(session.box)
      .catch((error: Error) => deps.log.warn({ session_id: session.id, err: error }, "files not removed"));
  await deps.journal.change(session.id, unmoved(session), (change) => finalize(change, session.exit_code ?? exitCode));
}

/** Nobody is left to ask, and nothing to keep: ended by force, and removed without a word in a log that no longer opens. */
async function erase(deps: StepDeps, session: SessionRow): Promise<void> {
  await destroySandboxes(deps, session);
  if (session.box) await deps.launcher.removeFiles(session.box);
  await deps.eraseRecord(session);
}

async function finalize(change: Change, exitCode: number | null): Promise<void> {
  const { session } = change;
  await closeOpenPauses(change, "ended");
  if (session.turn > 0) {
    change.append({ case: "system", value: { subtype: "turn_interrupted", message: "the session ended in the middle of this turn" } });
    change.set({ turn: 0, turn_acted: false });
  }
  if (wasAskedForSnapshot(session)) {
    const message = "what was said and done since the last snapshot could not be kept in time: it cannot be forked";
    change.append({ case: "system", value: { subtype: "last_snapshot_failed", message } });
  }
  await clearQueues(change.tx, session.id);
  change.set(ended(change.now, exitCode));
  const reason = endReasons[(session.end_reason ?? "failed") as EndReasonWord];
  change.append({ case: "sessionEnd", value: { reason, ...(exitCode === null ? {} : { exitCode }) } });
}

/** Asked to end while there was something to keep, and nothing was kept since. */
function wasAskedForSnapshot(session: SessionCore): boolean {
  if (session.state !== "ending" || !session.sdk_session_id || session.restoring) return false;
  return session.snapshot_at === null || session.snapshot_at < session.state_since;
}

/** Writes the wish to end with what the sandbox said last; the next look carries it out. The first reason wins. */
async function wishEnd(deps: StepDeps, session: SessionRow, reason: EndReasonWord, message: string): Promise<void> {
  const failure = await failureOf(deps, session, message);
  await deps.journal.change(session.id, unmoved(session), (change) => requestEnd(change, reason, failure));
}

/** What went wrong, with the phase of the start in which it did, if one was under way, and what the sandbox printed last. */
export async function failureOf(
  { launcher }: Pick<StepDeps, "launcher">,
  { box, start_marks, restoring }: Pick<SessionRow, "box" | "start_marks" | "restoring">,
  message: string,
): Promise<string> {
  const phase = phaseUnderWay(start_marks, restoring);
  return withOutput(phase ? `${message} (phase of its start: ${phase})` : message, box ? await launcher.lastOutput(box) : "");
}
