import type { UserVault } from "../vault/user-vault.ts";
import type { McpServerSettings, ProfileSettings } from "./settings.ts";

/** The sealed part of a profile's row; null stands for an empty map. Both envelopes open in this profile and generation only. */
export type SealedSettings = { generation: number; environment: Uint8Array | null; mcp_servers: Uint8Array | null };

type Secrets = Pick<ProfileSettings, "environment" | "mcpServers">;

export function sealSecrets(vault: UserVault, profileId: string, generation: number, { environment, mcpServers }: Secrets): SealedSettings {
  const seal = (purpose: "environment" | "mcp_config", field: string, value: object): Uint8Array | null => {
    if (Object.keys(value).length === 0) return null;
    const plaintext = Buffer.from(JSON.stringify(value));
    try {
      return vault.seal(purpose, contextOf(profileId, field, generation), plaintext);
    } finally {
      plaintext.fill(0);
    }
  };
  return {
    generation,
    environment: seal("environment", "environment", environment),
    mcp_servers: seal("mcp_config", "mcp_servers", mcpServers),
  };
}

/** Throws what `UserVault.open` throws. */
export function openSecrets(vault: UserVault, profileId: string, sealed: SealedSettings): Secrets {
  const open = (purpose: "environment" | "mcp_config", field: string, envelope: Uint8Array | null): unknown => {
    if (envelope === null) return {};
    const plaintext = vault.open(purpose, contextOf(profileId, field, sealed.generation), envelope);
    try {
      return JSON.parse(new TextDecoder().decode(plaintext));
    } finally {
      plaintext.fill(0);
    }
  };
  return {
    environment: open("environment", "environment", sealed.environment) as Record<string, string>,
    mcpServers: open("mcp_config", "mcp_servers", sealed.mcp_servers) as Record<string, McpServerSettings>,
  };
}

function contextOf(profileId: string, field: string, generation: number) {
  return { resourceType: "profile", resourceId: profileId, field, generation };
}
