/** What a profile says is what a session does. */

import { timestampDate } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { McpTransport } from "../../gen/carrel/v1/mcp_server_pb.ts";
import { ProfileService } from "../../gen/carrel/v1/profile_service_pb.ts";
import { EndReason, PermissionMode } from "../../gen/carrel/v1/session_pb.ts";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { type Person, signUp } from "../support/person.ts";
import { watch } from "../support/watcher.ts";

let installation: Installation;
let app: App;
let person: Person;

beforeAll(async () => {
  installation = await createInstallation({ CARREL_APPROVAL_TIMEOUT_MS: "2000" });
  app = await startApp(installation);
  person = await signUp(installation, app.url, "profiles@example.com");
});

afterAll(async () => {
  await app?.close();
  await installation?.remove();
});

const bypass = { permissionMode: PermissionMode.BYPASS_PERMISSIONS };

test("a new person has two profiles, and a session is pinned to the default one", async () => {
  const transport = createConnectTransport({
    baseUrl: app.url,
    httpVersion: "2",
    interceptors: [
      (next) => (request) => {
        request.header.set("authorization", `Bearer ${person.token}`);
        return next(request);
      },
    ],
  });
  const { profiles } = await createClient(ProfileService, transport).listProfiles({});
  expect(profiles.map(({ name, isDefault }) => [name, isDefault])).toEqual([
    ["Default", true],
    ["Full Permissions", false],
  ]);
  const { session } = await person.sessions.createSession({});
  expect(session).toMatchObject({ profileId: profiles[0]!.id, allowedTools: expect.arrayContaining(["Read", "Bash(ls:*)"]) as string[] });
  await person.sessions.terminateSession({ sessionId: session!.id });
});

test("an allowed command runs without asking, another one asks, and a denied one is refused whatever the mode", async () => {
  const { session } = await person.sessions.createSession({
    deniedTools: ["Bash(rm:*)"],
    initialPrompt: '[[tool Bash {"command":"ls -la"}]] [[tool Bash {"command":"echo hi && rm -rf x"}]] [[tool Bash {"command":"touch y"}]]',
  });
  const watcher = watch(person, session!.id);
  const asked = await watcher.untilKind("toolApprovalRequest");
  expect(asked.toolInput).toMatchObject({ command: "touch y" });
  const results = watcher.events.flatMap(({ payload }) => (payload?.kind.case === "toolResult" ? [payload.kind.value] : []));
  expect(results.map(({ isError }) => isError)).toEqual([false, true]);
  expect(watcher.events.some(({ payload }) => payload?.kind.case === "system" && payload.kind.value.subtype === "permission_denied")).toBe(
    true,
  );
  await person.sessions.terminateSession({ sessionId: session!.id });
  await watcher.ended();
});

test("the agent has the environment that the session was given, and people see only its names", async () => {
  const { session } = await person.sessions.createSession({
    ...bypass,
    environment: { PROJECT_COLOUR: "vermilion-77" },
    initialPrompt: '[[tool Bash {"command":"echo colour=$PROJECT_COLOUR"}]]',
  });
  expect(session?.environment).toEqual({ PROJECT_COLOUR: "" });
  const watcher = watch(person, session!.id);
  const result = await watcher.untilKind("toolResult");
  expect(JSON.stringify(result.content)).toContain("colour=vermilion-77");
  await person.sessions.terminateSession({ sessionId: session!.id });
  await watcher.ended();
});

test("a dangerous variable is refused by its name", async () => {
  await expect(person.sessions.createSession({ environment: { NODE_OPTIONS: "--require=/workspace/x.js" } })).rejects.toThrow(
    /NODE_OPTIONS/,
  );
});

test("a tool of an MCP server in the sandbox asks by its mangled name and then runs", async () => {
  const server = `
    const rl = require("readline").createInterface({ input: process.stdin });
    const send = (m) => process.stdout.write(JSON.stringify({ jsonrpc: "2.0", ...m }) + "\\n");
    rl.on("line", (l) => { const m = JSON.parse(l);
      if (m.method === "initialize") send({ id: m.id, result: { protocolVersion: m.params.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: "e", version: "1" } } });
      else if (m.method === "tools/list") send({ id: m.id, result: { tools: [{ name: "echo", description: "says it again", inputSchema: { type: "object", properties: { text: { type: "string" } } } }] } });
      else if (m.method === "tools/call") send({ id: m.id, result: { content: [{ type: "text", text: "again: " + m.params.arguments.text + " " + process.env.ECHO_KEY }] } });
      else if (m.id !== undefined) send({ id: m.id, result: {} }); });`;
  const { session } = await person.sessions.createSession({
    mcpServers: { echoer: { type: McpTransport.STDIO, command: "/opt/carrel/node", args: ["-e", server], env: { ECHO_KEY: "mcp-env-5" } } },
    initialPrompt: '[[tool mcp__echoer__echo {"text":"hello"}]]',
  });
  const watcher = watch(person, session!.id);
  const asked = await watcher.untilKind("toolApprovalRequest");
  expect(asked.toolName).toBe("mcp__echoer__echo");
  await person.channel.answerApproval({ sessionId: session!.id, toolUseId: asked.toolUseId, approved: true });
  const result = await watcher.untilKind("toolResult");
  expect(JSON.stringify(result.content)).toContain("again: hello mcp-env-5");
  await person.sessions.terminateSession({ sessionId: session!.id });
  await watcher.ended();
});

test("a one-shot session ends as completed after its task", async () => {
  const { session } = await person.sessions.createSession({ oneShot: true, initialPrompt: "[[text all done]]" });
  const watcher = watch(person, session!.id);
  expect((await watcher.untilKind("sessionEnd")).reason).toBe(EndReason.COMPLETED);
  await watcher.ended();
});

test("in a one-shot session what nobody answers is refused after a while, and the agent goes on", async () => {
  const { session } = await person.sessions.createSession({ oneShot: true, initialPrompt: '[[tool Bash {"command":"touch x"}]]' });
  const watcher = watch(person, session!.id);
  await watcher.untilKind("toolApprovalRequest");
  const [waiting] = (await person.channel.listPending({ sessionId: session!.id })).approvals;
  expect(Number(timestampDate(waiting!.expiresAt!)) - Number(timestampDate(waiting!.createdAt!))).toBe(2_000);
  const refused = await watcher.untilKind("toolResult", ({ isError }) => isError);
  expect(JSON.stringify(refused.content)).toContain("Nobody answered in time");
  expect((await watcher.untilKind("sessionEnd")).reason).toBe(EndReason.COMPLETED);
  await watcher.ended();
});

test("a session ends at its turns and at its budget, with a visible word and the cause", async () => {
  for (const [cap, subtype] of [
    [{ maxTurns: 2 }, "max_turns_reached"],
    [{ maxBudgetUsd: 0.000001 }, "budget_exceeded"],
  ] as const) {
    const { session } = await person.sessions.createSession({ ...bypass, ...cap, initialPrompt: '[[tool Bash {"command":"true"} x5]]' });
    const watcher = watch(person, session!.id);
    expect((await watcher.untilKind("sessionEnd")).reason).toBe(EndReason.COMPLETED);
    expect(watcher.events.filter(({ payload }) => payload?.kind.case === "system" && payload.kind.value.subtype === subtype)).toHaveLength(
      1,
    );
    const { session: ended } = await person.sessions.getSession({ sessionId: session!.id });
    expect(ended?.errorMessage).toMatch(/the session has/);
    await watcher.ended();
  }
});

test("a session ends when its lifetime is over", async () => {
  const { session } = await person.sessions.createSession({ ttlSeconds: 2 });
  const watcher = watch(person, session!.id);
  expect((await watcher.untilKind("sessionEnd", undefined, 20_000)).reason).toBe(EndReason.MAX_DURATION_EXCEEDED);
  await watcher.ended();
});
