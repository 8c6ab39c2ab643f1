import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { EndReason, PermissionMode, type Session, SessionSchema } from "../../gen/carrel/v1/session_pb.ts";
import { pinnedSettings } from "../journal/pinned.ts";
import { openText } from "../journal/seal.ts";
import { type EndReasonWord, endReasons, type PermissionModeWord, permissionModes, startPhases, viewOf } from "../journal/session-view.ts";
import type { ProfileSettings } from "../journal/settings.ts";
import { timedPhases } from "../journal/start-phases.ts";
import { usageMessage } from "../journal/turns.ts";
import type { UserVault } from "../vault/user-vault.ts";
import type { ShownSession } from "./store.ts";

/** What this installation says of itself on every session. */
export type Place = {
  region: string;
  demo: boolean;
  /** Settings as people are shown them: a secret's name, never its value. */
  showSettings(settings: ProfileSettings): Pick<Session, "environment" | "mcpServers">;
};

/** A session as its owner sees it. */
export function sessionMessage(row: ShownSession, vault: UserVault, place: Place): Session {
  const view = viewOf(row);
  const shown = place.showSettings(pinnedSettings(vault, row));
  return create(SessionSchema, {
    id: row.id,
    name: row.name,
    status: view.status,
    userState: view.userState,
    needsAttention: view.needsAttention,
    detail: view.detail,
    createdAt: timestampFromDate(row.created_at),
    ...(row.started_at ? { startedAt: timestampFromDate(row.started_at) } : {}),
    ...(row.terminated_at ? { terminatedAt: timestampFromDate(row.terminated_at) } : {}),
    endReason: row.state === "ended" ? endReasons[row.end_reason as EndReasonWord] : EndReason.UNSPECIFIED,
    ...(row.exit_code === null ? {} : { exitCode: row.exit_code }),
    errorMessage: row.error_message ? openText(vault, row.id, "error_message", row.error_message) : "",
    region: place.region,
    model: row.model,
    permissionMode: permissionModes[row.permission_mode as PermissionModeWord] ?? PermissionMode.ACCEPT_EDITS,
    allowedTools: row.allowed_tools,
    deniedTools: row.denied_tools,
    initialPrompt: row.initial_prompt ? openText(vault, row.id, "initial_prompt", row.initial_prompt) : "",
    usage: usageMessage(row.usage),
    costUsd: row.usage.cost_micros / 1e6,
    numTurns: row.num_turns,
    pendingCount: row.pending_count,
    queuedPrompts: row.queued_prompts,
    lastSeq: row.last_seq,
    demo: place.demo,
    profileId: row.profile_id,
    ...(row.max_turns === null ? {} : { maxTurns: row.max_turns }),
    ...(row.max_budget_micros === null ? {} : { maxBudgetUsd: row.max_budget_micros / 1e6 }),
    oneShot: row.one_shot,
    ...(row.ttl_seconds === null ? {} : { ttlSeconds: row.ttl_seconds }),
    environment: shown.environment,
    mcpServers: shown.mcpServers,
    allowedHosts: row.allowed_hosts,
    forkedFromSessionId: row.forked_from ?? "",
    startPhases: timedPhases(row.start_marks).map(({ phase, durationMs }) => ({ phase: startPhases[phase], durationMs })),
    forkedAtSeq: row.forked_at_seq ?? 0,
    ...(row.snapshot_at ? { snapshotAt: timestampFromDate(row.snapshot_at) } : {}),
  });
}
