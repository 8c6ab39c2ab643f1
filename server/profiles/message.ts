import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type McpServer, McpServerSchema, McpTransport } from "../../gen/carrel/v1/mcp_server_pb.ts";
import { type Profile, ProfileSchema } from "../../gen/carrel/v1/profile_pb.ts";
import { type PermissionModeWord, permissionModes } from "../journal/session-view.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { openSecrets } from "./seal.ts";
import { namesOf } from "./secrets.ts";
import type { McpServerSettings, ProfileSettings } from "./settings.ts";
import type { ProfileRow } from "./store.ts";

/** What a row says, opened. Throws what the vault throws when an envelope is not this row's. */
export function settingsOf(row: ProfileRow, vault: UserVault): ProfileSettings {
  return {
    allowedTools: row.allowed_tools,
    deniedTools: row.denied_tools,
    permissionMode: row.permission_mode as PermissionModeWord,
    model: row.model,
    maxTurns: row.max_turns,
    maxBudgetMicros: row.max_budget_micros,
    oneShot: row.one_shot,
    ttlSeconds: row.ttl_seconds,
    allowedHosts: row.allowed_hosts,
    ...openSecrets(vault, row.id, row),
  };
}

/** A profile as its owner sees it: secrets by their names alone. */
export function profileMessage(row: ProfileRow, vault: UserVault): Profile {
  return create(ProfileSchema, {
    ...optionsMessage(settingsOf(row, vault)),
    id: row.id,
    name: row.name,
    description: row.description,
    isDefault: row.is_default,
    createdAt: timestampFromDate(row.created_at),
    updatedAt: timestampFromDate(row.updated_at),
  });
}

/** Settings as a profile shows them: a secret's name, never its value. */
export function optionsMessage(settings: ProfileSettings): Profile {
  return create(ProfileSchema, {
    allowedTools: settings.allowedTools,
    deniedTools: settings.deniedTools,
    permissionMode: permissionModes[settings.permissionMode],
    model: settings.model,
    ...(settings.maxTurns === null ? {} : { maxTurns: settings.maxTurns }),
    ...(settings.maxBudgetMicros === null ? {} : { maxBudgetUsd: settings.maxBudgetMicros / 1e6 }),
    oneShot: settings.oneShot,
    ...(settings.ttlSeconds === null ? {} : { ttlSeconds: settings.ttlSeconds }),
    environment: namesOf(settings.environment),
    mcpServers: Object.fromEntries(Object.entries(settings.mcpServers).map(([name, server]) => [name, serverMessage(server)])),
    allowedHosts: settings.allowedHosts,
  });
}

const transports = { stdio: McpTransport.STDIO, http: McpTransport.HTTP, sse: McpTransport.SSE } as const;

function serverMessage(server: McpServerSettings): McpServer {
  const type = transports[server.type];
  if (server.type === "stdio")
    return create(McpServerSchema, { type, command: server.command, args: server.args, env: namesOf(server.env) });
  return create(McpServerSchema, { type, url: server.url, headers: namesOf(server.headers) });
}
