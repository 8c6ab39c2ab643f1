import { EndReason, PermissionMode, SessionDetail, SessionStatus, StartPhase, UserState } from "../../gen/carrel/v1/session_pb.ts";
import type { SessionState } from "./tables.ts";

/** What of a session decides how people see it. */
export type Visible = {
  state: SessionState;
  started_at: Date | null;
  turn: number;
  pending_count: number;
  queued_prompts: number;
  restoring: boolean;
  parked_at: Date | null;
};

export type View = { status: SessionStatus; userState: UserState; detail: SessionDetail; needsAttention: boolean };

/** The product's state, what people see, and why: derived, never stored (spec §3.1). */
export function viewOf(session: Visible): View {
  const { status, userState, detail } = session.parked_at === null ? derive(session) : parked(session);
  return {
    status,
    userState,
    detail,
    needsAttention: session.state !== "ended" && (session.pending_count > 0 || session.parked_at !== null),
  };
}

function derive(session: Visible): Omit<View, "needsAttention"> {
  const was = session.started_at !== null;
  switch (session.state) {
    case "ended":
      return { status: SessionStatus.ENDED, userState: UserState.ENDED, detail: SessionDetail.UNSPECIFIED };
    case "requested":
    case "starting":
      return {
        status: was ? SessionStatus.RUNNING : SessionStatus.STARTING,
        userState: UserState.RUNNING,
        detail: session.restoring ? SessionDetail.RESTORING : was ? SessionDetail.RECOVERING : SessionDetail.PROVISIONING,
      };
    case "dormant":
      return { status: SessionStatus.RUNNING, userState: UserState.WAITING, detail: SessionDetail.DORMANT };
    case "running":
    case "hibernating":
    case "ending":
      return { status: SessionStatus.RUNNING, ...busy(session) };
  }
}

/** It waits for somebody, whatever it was about to do. One that is put away still is. */
function parked(session: Visible): Omit<View, "needsAttention"> {
  const view = derive(session);
  const isAtRest = session.state === "ended" || session.state === "dormant";
  return isAtRest ? view : { status: view.status, userState: UserState.WAITING, detail: SessionDetail.BLOCKED };
}

function busy(session: Visible): Pick<View, "userState" | "detail"> {
  if (session.pending_count > 0) return { userState: UserState.WAITING, detail: SessionDetail.BLOCKED };
  if (session.turn > 0) return { userState: UserState.RUNNING, detail: SessionDetail.WORKING };
  return { userState: UserState.WAITING, detail: SessionDetail.IDLE };
}

/** The stored words of the phases of a start. */
export const startPhases = {
  sandbox: StartPhase.SANDBOX,
  runner: StartPhase.RUNNER,
  restore: StartPhase.RESTORE,
  agent: StartPhase.AGENT,
} as const;

/** The stored words of the end reasons, which are the product's. */
export const endReasons = {
  completed: EndReason.COMPLETED,
  failed: EndReason.FAILED,
  job_completed: EndReason.JOB_COMPLETED,
  user_requested: EndReason.USER_REQUESTED,
  org_api_requested: EndReason.ORG_API_REQUESTED,
  max_duration_exceeded: EndReason.MAX_DURATION_EXCEEDED,
  startup_timeout: EndReason.STARTUP_TIMEOUT,
  heartbeat_stale: EndReason.HEARTBEAT_STALE,
} as const;

export type EndReasonWord = keyof typeof endReasons;

/** The stored words of the permission modes, which are the product's. */
export const permissionModes = {
  acceptEdits: PermissionMode.ACCEPT_EDITS,
  plan: PermissionMode.PLAN,
  bypassPermissions: PermissionMode.BYPASS_PERMISSIONS,
} as const;

export type PermissionModeWord = keyof typeof permissionModes;
