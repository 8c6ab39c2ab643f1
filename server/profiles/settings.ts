import type { ProfileSettings } from "../journal/settings.ts";

export type { McpServerSettings, ProfileSettings } from "../journal/settings.ts";

/** A profile before it has an id. */
export type Draft = { name: string; description: string; settings: ProfileSettings };

/** What a profile says that says nothing. */
export const plainSettings: ProfileSettings = {
  allowedTools: [],
  deniedTools: [],
  permissionMode: "acceptEdits",
  model: "",
  maxTurns: null,
  maxBudgetMicros: null,
  oneShot: false,
  ttlSeconds: null,
  environment: {},
  mcpServers: {},
  allowedHosts: [],
};

const readingCommands = ["cat", "head", "tail", "less", "grep", "sed", "awk", "jq", "ls", "find", "wc"];

/** What everybody begins with. The first is the default. */
export const starterProfiles: readonly [Draft, ...Draft[]] = [
  {
    name: "Default",
    description: "Edits files, reads without asking, asks before everything else",
    settings: { ...plainSettings, allowedTools: ["Read", ...readingCommands.map((command) => `Bash(${command}:*)`)] },
  },
  {
    name: "Full Permissions",
    description: "Runs everything without asking",
    settings: { ...plainSettings, permissionMode: "bypassPermissions" },
  },
];
