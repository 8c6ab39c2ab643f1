import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import { openSettings } from "../journal/pinned.ts";
import type { UserVault } from "../vault/user-vault.ts";
import type { Caller } from "./callers.ts";
import type { McpTarget } from "./mcp-gateway.ts";
import { findSettings } from "./store.ts";

/** Finds a remote tool server among what a session is pinned to, by name. */
export function createServerFinder({ db, userVault }: { db: Kysely<Database>; userVault(userId: string): Promise<UserVault> }) {
  return async ({ sessionId }: Caller, name: string): Promise<McpTarget | undefined> => {
    const row = await findSettings(db, sessionId);
    if (!row) return undefined;
    const { mcpServers } = openSettings(await userVault(row.owner_id), row);
    // The sandbox chooses the name: what every object has is no server.
    const server = Object.hasOwn(mcpServers, name) ? mcpServers[name] : undefined;
    return server && server.type !== "stdio" ? server : undefined;
  };
}
