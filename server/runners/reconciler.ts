import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import { requestEnd } from "../journal/ends.ts";
import { present } from "../journal/journal.ts";
import { expirePause } from "../journal/pauses.ts";
import { findSession, listOpenPauses, type SessionRow } from "../journal/store.ts";
import { wake } from "../journal/turns.ts";
import type { SandboxHandle } from "../sandbox/driver.ts";
import { type Lease, underLease } from "./leases.ts";
import { setBack } from "./parking.ts";
import { isHeld, isSandboxOf, nextStep, type Observed, observed, type Step } from "./rules.ts";
import { SessionMoved, type StepDeps } from "./step.ts";
import { failureOf, keepHandle, steps } from "./steps.ts";
import { databaseNow, findByBox, forgetSetbacks, listDoomed, listDue, listUnanswered } from "./store.ts";

export type ReconcilerOptions = Omit<StepDeps, "onStarted"> & {
  db: Kysely<Database>;
  /** The installation: a sandbox is on one machine, so its session is that machine's to look after. */
  host: string;
  /** Time a runner has to leave by itself before it is killed. */
  endGraceMs: number;
  /** Restarts allowed within the window before a lost session is given up. */
  maxRestarts: number;
  /** How long an approval or question of a one-shot session waits before it is refused. */
  approvalTimeoutMs: number;
  /** Grace for every lease after this process started or could not see: the runners were there, it was not. */
  reconnectMs: number;
  intervalMs: number;
  /** Time to put a session away, and to bring it back. */
  archiveTimeoutMs: number;
};

export type Reconciler = {
  /** Takes back the sandboxes of an earlier process and starts the loop. */
  start(): Promise<void>;
  /** Looks at one session now. */
  poke(sessionId: string): void;
  /** Records that the runner of this lease left by itself and what it exits with. */
  detached(lease: Lease, exit: { reason: string; exitCode: number }): Promise<void>;
  stop(): Promise<void>;
};

/** A look this late means that this process did not run for a while. */
const blindMs = 5_000;
/** Sessions erased at a time: who leaves with thousands of them takes no connections and no object store from those who stay. */
const erasedAtOnce = 8;

/** Drives what is observed to what is wanted (design D9): reads the current state, takes one step, looks again. */
export function createReconciler(options: ReconcilerOptions): Reconciler {
  const stopping = new AbortController();
  let seeingSince = performance.now();
  let lastLook = seeingSince;
  const queue = createQueue(stopping.signal, (sessionId) => look(sessionId));
  const watched = new Set<string>();
  let timer: NodeJS.Timeout | undefined;

  const watchExit = (sessionId: string, handle: SandboxHandle): void => {
    if (watched.has(handle.id)) return;
    watched.add(handle.id);
    options.launcher
      .wait(handle, stopping.signal)
      .catch((error: Error) => {
        if (!stopping.signal.aborted) options.log.warn({ session_id: sessionId, err: error }, "waiting for a sandbox failed");
      })
      .finally(() => {
        watched.delete(handle.id);
        queue.add(sessionId);
      });
  };
  const deps: StepDeps = { ...options, onStarted: watchExit };

  const look = async (sessionId: string): Promise<boolean> => {
    const session = await findSession(options.db, sessionId);
    if (!session || session.host !== options.host || (session.state === "ended" && session.desired !== "erase")) return false;
    let step: Step = "wait";
    try {
      const seen = await observe(options, session, seeingSince);
      step = nextStep(seen, options);
      if (step === "wait" && isHeld(seen)) return false;
      if (step !== "wait") {
        options.log.info({ session_id: sessionId, step, state: session.state, epoch: session.epoch }, "session step");
        await steps[step](deps, session);
      }
    } catch (error) {
      if (error instanceof SessionMoved) throw error;
      // The next look starts afresh: nothing is decided from a step that failed.
      await setBack(options, session, step, error);
      return false;
    }
    // Also where there was nothing to do: what failed is over.
    if (session.retry_at !== null) await forgetSetbacks(options.db, session);
    return step !== "wait";
  };

  const lookAround = async (): Promise<void> => {
    // Who was suspended, or had no database for a heartbeat to be recorded in, has no right to call anybody late.
    if (performance.now() - lastLook > options.intervalMs + blindMs) seeingSince = performance.now();
    try {
      for (const { id } of await listDue(options.db, options.host, options.idleMs)) queue.add(id);
      for (const { id } of await listDoomed(options.db, options.host, erasedAtOnce)) queue.add(id);
      for (const { id } of await listUnanswered(options.db, options.host, options.approvalTimeoutMs)) {
        // What one session fails of is no reason to look away from the others.
        await expireUnanswered(options, id).catch((error: Error) =>
          options.log.warn({ session_id: id, err: error }, "what nobody answered could not be refused"),
        );
      }
    } catch (error) {
      seeingSince = performance.now();
      options.log.warn({ err: error }, "reconciler could not read the sessions");
    }
    lastLook = performance.now();
    if (!stopping.signal.aborted) timer = setTimeout(() => void lookAround(), options.intervalMs);
  };

  return {
    poke: queue.add,
    async start() {
      await adoptSandboxes(options, deps);
      await lookAround();
      options.standby.start();
    },
    async detached(lease, exit) {
      await options.journal.change(lease.sessionId, underLease(lease), async (change) => {
        const failed = exit.exitCode !== 0;
        change.set({ exit_code: exit.exitCode });
        requestEnd(
          change,
          failed ? "failed" : "job_completed",
          failed ? await failureOf(options, change.session, exit.reason) : exit.reason,
        );
      });
      queue.add(lease.sessionId);
    },
    async stop() {
      stopping.abort();
      clearTimeout(timer);
      await queue.idle();
    },
  };

  /** One look at a time for each session; asked meanwhile, or after a step, it looks again. */
  function createQueue(signal: AbortSignal, work: (sessionId: string) => Promise<boolean>) {
    const busy = new Map<string, Promise<void>>();
    const again = new Set<string>();
    const run = async (sessionId: string): Promise<void> => {
      do {
        again.delete(sessionId);
        try {
          if (await work(sessionId)) again.add(sessionId);
        } catch (error) {
          if (error instanceof SessionMoved) options.log.debug({ session_id: sessionId }, "session step overtaken");
          else {
            again.delete(sessionId);
            options.log.warn({ session_id: sessionId, err: error }, "session not looked at");
          }
        }
      } while (again.has(sessionId) && !signal.aborted);
    };
    return {
      add(sessionId: string): void {
        if (signal.aborted) return;
        if (busy.has(sessionId)) again.add(sessionId);
        else
          busy.set(
            sessionId,
            run(sessionId).finally(() => busy.delete(sessionId)),
          );
      },
      idle: () => Promise.allSettled(busy.values()),
    };
  }
}

/** Nobody is there to answer a one-shot session: what has waited long enough is refused, and the agent goes on. */
async function expireUnanswered({ journal, approvalTimeoutMs }: ReconcilerOptions, sessionId: string): Promise<void> {
  await journal.change(sessionId, present, async (change) => {
    for (const pause of await listOpenPauses(change.tx, sessionId)) {
      if (change.now.getTime() - pause.created_at.getTime() >= approvalTimeoutMs) await expirePause(change, pause);
    }
    await wake(change);
  });
}

async function observe(options: ReconcilerOptions, session: SessionRow, seeingSince: number): Promise<Observed> {
  const now = await databaseNow(options.db);
  const graceLeftMs = session.handle ? seeingSince + options.reconnectMs - performance.now() : Number.NEGATIVE_INFINITY;
  const sandbox = session.handle === null ? undefined : (await options.launcher.isRunning(session.handle)) ? "running" : "exited";
  const { restartWindowMs, idleMs } = options;
  return observed(session, { now, sandbox, graceLeftMs, restartWindowMs, idleMs });
}

/** Sandboxes of sessions that want them are taken back; the others are destroyed, and files of nobody removed: the store wins. */
async function adoptSandboxes(options: ReconcilerOptions, deps: StepDeps): Promise<void> {
  for (const sandbox of await options.launcher.list()) {
    // One that cannot be dealt with keeps none of the others from coming back.
    await adopt(options, deps, sandbox).catch((error: Error) =>
      options.log.error({ err: error, box: sandbox.box }, "sandbox not taken back"),
    );
  }
  for (const box of await options.launcher.listFiles()) {
    const session = await findByBox(options.db, box);
    if (!session || session.state === "ended") await options.launcher.removeFiles(box);
  }
}

type Sandbox = Awaited<ReturnType<ReconcilerOptions["launcher"]["list"]>>[number];

async function adopt(options: ReconcilerOptions, deps: StepDeps, { box, run, handle }: Sandbox): Promise<void> {
  const session = await findByBox(options.db, box);
  if (session && session.state !== "ended" && session.desired !== "erase" && isSandboxOf(session, { id: handle.id, run })) {
    await options.launcher.adopt(box, handle);
    await keepHandle(deps, session.id, session.epoch, handle);
    options.log.info({ session_id: session.id, epoch: session.epoch }, "sandbox taken back");
  } else {
    await options.launcher.destroy(handle);
    options.log.info({ box }, "orphaned sandbox destroyed");
  }
}
