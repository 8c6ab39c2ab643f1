// No module of the control plane's messages is loaded from here: the agent is started before them.
import type { McpServerConfig } from "@anthropic-ai/claude-agent-sdk/core";
import type { AgentOptions } from "./agent.ts";
import { hasConversation } from "./conversation.ts";

/** What a runner is told at its start, by standard input. */
export type Boot = {
  attachToken: string;
  phantomToken: string;
  socket: string;
  /** File that keeps what is not acknowledged. */
  spool: string;
  claude: string;
  cwd: string;
  resume: string;
  restore: boolean;
  model: string;
  planMode: boolean;
};

/** Where an agent runs. */
export type Place = {
  boot: Boot;
  /** Where the broker is on the sandbox's own loopback. */
  door: URL;
  /** The runner's own environment, of which the agent inherits where its home and programs are. */
  environment: Readonly<Record<string, string | undefined>>;
};

/** The conversation if the agent's record of it is there, else none. */
export function presentOf({ environment }: Place, conversation: string): string {
  return hasConversation(environment["HOME"], conversation) ? conversation : "";
}

/** What the session wants of the agent. */
export type AgentSettings = {
  model: string;
  planMode: boolean;
  environment: Record<string, string>;
  mcpServers: Record<string, McpServerConfig>;
};

/** Known before the runner attaches: enough to start an agent that nobody has asked anything special of. */
export function settingsAtBoot({ model, planMode }: Boot): AgentSettings {
  return { model, planMode, environment: {}, mcpServers: {} };
}

/** What an agent with these settings is started with, but for who observes it. */
export function launchOf(place: Place, settings: AgentSettings, conversation: string): Omit<AgentOptions, "observer"> {
  const { boot } = place;
  return {
    claudePath: boot.claude,
    cwd: boot.cwd,
    model: settings.model,
    planMode: settings.planMode,
    environment: agentEnvironment(settings, place),
    mcpServers: settings.mcpServers,
    resume: conversation,
  };
}

/** The whole environment of the agent. The token in it opens the broker of this sandbox and nothing else. */
function agentEnvironment(settings: AgentSettings, { boot, door, environment: own }: Place): Record<string, string> {
  return {
    ...settings.environment,
    HOME: own["HOME"] ?? "/home/agent",
    PATH: own["PATH"] ?? "/usr/bin:/bin",
    LANG: "C.UTF-8",
    ANTHROPIC_BASE_URL: door.origin,
    ANTHROPIC_API_KEY: boot.phantomToken,
    // The one switch that silences every call home: telemetry, updates, feature flags.
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
    DISABLE_AUTOUPDATER: "1",
  };
}

/** Whether an agent that was started with `before` can be set to `after` while it runs. */
export function canBeSet(before: AgentSettings, after: AgentSettings): boolean {
  return JSON.stringify([before.environment, before.mcpServers]) === JSON.stringify([after.environment, after.mcpServers]);
}
