// What every step of the reconciler is given, and what it may rely on.
import type { Guard, Journal } from "../journal/journal.ts";
import type { LockedSession, SessionRow } from "../journal/store.ts";
import type { Log } from "../log.ts";
import type { SandboxHandle } from "../sandbox/driver.ts";
import type { Launcher } from "./launcher.ts";
import { isUnmoved, type Tries } from "./rules.ts";
import type { Standby } from "./standby.ts";

export type StepDeps = Tries & {
  journal: Journal;
  launcher: Launcher;
  standby: Standby;
  hashToken(token: string): Uint8Array;
  log: Log;
  startupTimeoutMs: number;
  restartWindowMs: number;
  /** Idle time after which a session is put away. */
  idleMs: number;
  /** Told of every sandbox that now belongs to a session. */
  onStarted(sessionId: string, handle: SandboxHandle): void;
  /** Resolves when every model request of the session that has been answered is booked, or after a while. */
  settled(sessionId: string): Promise<void>;
  /** Removes what is kept of a session outside its box, rows last. Resolves when nothing is left. */
  eraseRecord(session: SessionRow): Promise<void>;
};

export type TakeStep = (deps: StepDeps, session: SessionRow) => Promise<void>;

/** Everything that runs over a box, whether or not its session knows of it: a start may have died before it was written down. */
export async function destroySandboxes(deps: StepDeps, session: Pick<SessionRow, "handle" | "box">): Promise<void> {
  if (session.handle) await deps.launcher.destroy(session.handle);
  for (const { box, handle } of await deps.launcher.list()) if (box === session.box) await deps.launcher.destroy(handle);
}

/** Somebody else was faster: the next look decides anew, and nothing is wrong. */
export class SessionMoved extends Error {
  override message = "the session was moved by somebody else meanwhile";
}

/** Refuses when somebody else has moved the session meanwhile. */
export function unmoved(session: SessionRow): Guard {
  return (row: LockedSession | undefined) => {
    if (row && isUnmoved(row, session)) return row;
    throw new SessionMoved();
  };
}
