// What a session was pinned to at its creation, as its row holds it.
import type { UserVault } from "../vault/user-vault.ts";
import { openText, sealText } from "./seal.ts";
import type { PermissionModeWord } from "./session-view.ts";
import type { ProfileSettings, SealedSettings } from "./settings.ts";
import type { SessionRow } from "./store.ts";

/** Null when there is nothing to seal. */
export function sealSettings(vault: UserVault, sessionId: string, { environment, mcpServers }: SealedSettings): Uint8Array | null {
  if (Object.keys(environment).length === 0 && Object.keys(mcpServers).length === 0) return null;
  return sealText(vault, sessionId, "settings", JSON.stringify({ environment, mcpServers } satisfies SealedSettings));
}

export function openSettings(vault: UserVault, row: Pick<SessionRow, "id" | "settings">): SealedSettings {
  if (!row.settings) return { environment: {}, mcpServers: {} };
  return JSON.parse(openText(vault, row.id, "settings", row.settings)) as SealedSettings;
}

/** The columns of what a session was pinned to. */
type PinnedRow = Pick<
  SessionRow,
  | "id"
  | "settings"
  | "allowed_tools"
  | "denied_tools"
  | "permission_mode"
  | "model"
  | "max_turns"
  | "max_budget_micros"
  | "one_shot"
  | "ttl_seconds"
  | "allowed_hosts"
>;

/** Everything a session was pinned to, in clear. */
export function pinnedSettings(vault: UserVault, row: PinnedRow): ProfileSettings {
  return {
    ...openSettings(vault, row),
    allowedTools: row.allowed_tools,
    deniedTools: row.denied_tools,
    permissionMode: row.permission_mode as PermissionModeWord,
    model: row.model,
    maxTurns: row.max_turns,
    maxBudgetMicros: row.max_budget_micros,
    oneShot: row.one_shot,
    ttlSeconds: row.ttl_seconds,
    allowedHosts: row.allowed_hosts,
  };
}
