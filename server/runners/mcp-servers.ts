import type { MessageInitShape } from "@bufbuild/protobuf";
import { type McpServerSchema, McpTransport } from "../../gen/carrel/v1/mcp_server_pb.ts";
import type { McpServerSettings } from "../journal/settings.ts";

/** What the runner is told: a program to start whole, a remote server only that it is there. Its address and headers stay here. */
export function mcpForRunner(
  servers: Readonly<Record<string, McpServerSettings>>,
): Record<string, MessageInitShape<typeof McpServerSchema>> {
  return Object.fromEntries(Object.entries(servers).map(([name, server]) => [name, forRunner(server)]));
}

function forRunner(server: McpServerSettings): MessageInitShape<typeof McpServerSchema> {
  if (server.type !== "stdio") return { type: server.type === "http" ? McpTransport.HTTP : McpTransport.SSE };
  return { type: McpTransport.STDIO, command: server.command, args: server.args, env: server.env };
}
