import type { McpServerConfig } from "@anthropic-ai/claude-agent-sdk/core";
import type { Manifest } from "../gen/carrel/runner/v1/manifest_pb.ts";
import { McpTransport } from "../gen/carrel/v1/mcp_server_pb.ts";

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

/** @param door where the broker is on the sandbox's own loopback. */
export function settingsOf(manifest: Manifest, boot: Boot, door: URL): AgentSettings {
  return {
    model: manifest.model,
    planMode: manifest.planMode,
    environment: { ...manifest.environment, ...(manifest.egress ? proxyEnvironment(door, boot.phantomToken) : {}) },
    mcpServers: Object.fromEntries(
      Object.entries(manifest.mcpServers).map(([name, server]): [string, McpServerConfig] => {
        if (server.type === McpTransport.STDIO)
          return [name, { type: "stdio", command: server.command, args: server.args, env: server.env }];
        const remote = { url: new URL(`/mcp/${name}`, door).href, headers: { authorization: `Bearer ${boot.phantomToken}` } };
        return [name, { type: server.type === McpTransport.SSE ? "sse" : "http", ...remote }];
      }),
    ),
  };
}

/** The whole environment of the agent. The token in it opens the broker of this sandbox and nothing else. */
export function agentEnvironment(
  settings: AgentSettings,
  own: Readonly<Record<string, string | undefined>>,
  boot: Boot,
  door: URL,
): Record<string, string> {
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

function proxyEnvironment(door: URL, phantomToken: string): Record<string, string> {
  const proxy = new URL(door);
  proxy.username = "carrel";
  proxy.password = phantomToken;
  const url = proxy.href.replace(/\/$/, "");
  const direct = "127.0.0.1,localhost,::1";
  return {
    HTTP_PROXY: url,
    HTTPS_PROXY: url,
    http_proxy: url,
    https_proxy: url,
    NO_PROXY: direct,
    no_proxy: direct,
    NODE_USE_ENV_PROXY: "1",
  };
}
