import type { McpServerConfig } from "@anthropic-ai/claude-agent-sdk/core";
import type { Manifest } from "../gen/carrel/runner/v1/manifest_pb.ts";
import { McpTransport } from "../gen/carrel/v1/mcp_server_pb.ts";
import type { AgentSettings, Place } from "./orders.ts";

/** What the manifest says of the agent. */
export function settingsOf(manifest: Manifest, { boot, door }: Place): AgentSettings {
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
