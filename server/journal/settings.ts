import type { PermissionModeWord } from "./session-view.ts";

/** One external tool server, with its secrets. */
export type McpServerSettings =
  | { type: "stdio"; command: string; args: string[]; env: Record<string, string> }
  | { type: "http" | "sse"; url: string; headers: Record<string, string> };

/** What a profile says and a session is pinned to: everything but the name, and with the secrets in clear. Never logged. */
export type ProfileSettings = {
  allowedTools: string[];
  deniedTools: string[];
  permissionMode: PermissionModeWord;
  /** Empty: the provider's default. */
  model: string;
  /** Null: no limit. */
  maxTurns: number | null;
  /** Millionths of a USD. Null: no limit. */
  maxBudgetMicros: number | null;
  oneShot: boolean;
  /** Null: the platform's maximum. */
  ttlSeconds: number | null;
  environment: Record<string, string>;
  mcpServers: Record<string, McpServerSettings>;
  /** Lower-case host names, `*.suffix`, or `*`. */
  allowedHosts: string[];
};

/** The part of a session's settings that is sealed. */
export type SealedSettings = Pick<ProfileSettings, "environment" | "mcpServers">;
