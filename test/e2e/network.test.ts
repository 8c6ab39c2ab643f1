/** What reaches beyond a sandbox: the hosts its profile names, and its tool servers by name; nothing else. */
import http, { type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { afterAll, beforeAll, expect, test } from "vitest";
import { z } from "zod";
import { McpTransport } from "../../gen/carrel/v1/mcp_server_pb.ts";
import { PermissionMode } from "../../gen/carrel/v1/session_pb.ts";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { type Person, signUp } from "../support/person.ts";
import { watch } from "../support/watcher.ts";

const secretHeader = "Bearer mcp-header-secret-9f1";

let outside: http.Server;
let seen: IncomingMessage["headers"][];
let port: number;
let installation: Installation;
let app: App;
let person: Person;

beforeAll(async () => {
  seen = [];
  outside = http.createServer((request, response) => {
    seen.push(request.headers);
    if (request.url === "/mcp") void serveMcp(request, response);
    else response.end("hello from outside");
  });
  await new Promise<void>((resolve) => outside.listen(0, "127.0.0.1", resolve));
  port = (outside.address() as AddressInfo).port;
  installation = await createInstallation({ CARREL_EGRESS_ALLOW_PRIVATE: `127.0.0.1:${port}` });
  app = await startApp(installation);
  person = await signUp(installation, app.url, "network@example.com");
});

afterAll(async () => {
  await app?.close();
  outside?.closeAllConnections();
  outside?.close();
  await installation?.remove();
});

async function serveMcp(request: IncomingMessage, response: http.ServerResponse): Promise<void> {
  const server = new McpServer({ name: "outside", version: "1.0.0" });
  server.registerTool("greet", { inputSchema: { name: z.string() } }, ({ name }) => ({
    content: [{ type: "text", text: `greetings, ${name}` }],
  }));
  const transport = new StreamableHTTPServerTransport({});
  await server.connect(transport as Parameters<typeof server.connect>[0]);
  await transport.handleRequest(request, response);
}

async function resultOf(initialPrompt: string, allowedHosts: string[], mcpServers = {}): Promise<{ content: string; refused: number }> {
  const { session } = await person.sessions.createSession({
    permissionMode: PermissionMode.BYPASS_PERMISSIONS,
    initialPrompt,
    allowedHosts,
    mcpServers,
  });
  const watcher = watch(person, session!.id);
  const { content } = await watcher.untilKind("toolResult");
  await watcher.untilKind("result");
  const refused = watcher.events.filter(({ payload }) => payload?.kind.case === "system" && payload.kind.value.subtype === "egress_denied");
  await person.sessions.terminateSession({ sessionId: session!.id });
  await watcher.ended();
  return { content: JSON.stringify(content), refused: refused.length };
}

// The proxy's own address is excepted from it; curl is told to ask it all the same.
const fetchOutside = () => `[[tool Bash {"command":"curl -sS -m 5 --noproxy '' http://127.0.0.1:${port}/ 2>&1; echo; echo exit=$?"}]]`;

test("a host that the session names is reached through the broker", async () => {
  const { content, refused } = await resultOf(fetchOutside(), ["127.0.0.1"]);
  expect([content.includes("hello from outside"), refused]).toEqual([true, 0]);
});

test("a host that it does not name is refused, and the log says so", async () => {
  const { content, refused } = await resultOf(fetchOutside(), ["example.com"]);
  expect([content.includes("hello from outside"), refused]).toEqual([false, 1]);
});

test("without named hosts there is no proxy and no way out", async () => {
  expect((await resultOf(fetchOutside(), [])).content).not.toContain("hello from outside");
});

test("a remote tool server is spoken to by name; its header is added outside and never seen inside", async () => {
  seen.length = 0;
  const mcpServers = {
    outside: { type: McpTransport.HTTP, url: `http://127.0.0.1:${port}/mcp`, headers: { Authorization: secretHeader } },
  };
  const { content } = await resultOf('[[tool mcp__outside__greet {"name":"Ada"}]]', [], mcpServers);
  expect(content).toContain("greetings, Ada");
  expect(seen.every((headers) => headers.authorization === secretHeader)).toBe(true);
  expect(seen.length).toBeGreaterThan(0);
  const everything = await resultOf(
    '[[tool Bash {"command":"cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr \\"\\\\0\\" \\"\\\\n\\"; cat -- $(find /home/agent /run/carrel -type f 2>/dev/null) 2>/dev/null | head -c 200000"}]]',
    [],
    mcpServers,
  );
  expect(everything.content).toContain("ANTHROPIC_BASE_URL");
  expect(everything.content).not.toContain("mcp-header-secret-9f1");
});
