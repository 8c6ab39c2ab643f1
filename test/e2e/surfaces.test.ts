/** One session, spoken to through every surface in turn: each sees what the others did. */
import { execFile } from "node:child_process";
import { once } from "node:events";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WebSocket as WsClient } from "ws";
import { createCarrel } from "../../sdk/node.ts";
import type { App } from "../../server/app.ts";
import { buf } from "../../setup/buf.ts";
import { createInstallation, type Installation, plantedKey, startApp } from "../support/carrel.ts";

const run = promisify(execFile);
const allowedOrigin = "https://desk.example";

let installation: Installation;
let app: App;
let token: string;

beforeAll(async () => {
  installation = await createInstallation({ CARREL_ALLOWED_ORIGINS: allowedOrigin });
  app = await startApp(installation);
  token = await installation.tokenFor("every@example.com");
});

afterAll(async () => {
  await app?.close();
  await installation?.remove();
});

/** Plain `curl` on the REST paths. */
async function curl(method: string, path: string, body?: unknown): Promise<{ status: number; body: Record<string, unknown> }> {
  const data = body === undefined ? [] : ["-H", "content-type: application/json", "-d", JSON.stringify(body)];
  const { stdout } = await run("curl", [
    "-sS",
    "-m",
    "20",
    "-X",
    method,
    "-H",
    `authorization: Bearer ${token}`,
    "-w",
    "\n%{http_code}",
    ...data,
    app.url + path,
  ]);
  const cut = stdout.lastIndexOf("\n");
  return { status: Number(stdout.slice(cut + 1)), body: JSON.parse(stdout.slice(0, cut)) as Record<string, unknown> };
}

/** `buf curl`, which knows nothing of the contract but what reflection tells it. */
async function bufCurl(method: string, data: unknown): Promise<Record<string, unknown>> {
  const arguments_ = [
    "curl",
    "--http2-prior-knowledge",
    "--protocol",
    "grpc",
    "-H",
    `Authorization: Bearer ${token}`,
    "-d",
    JSON.stringify(data),
  ];
  const { stdout } = await run(buf, [...arguments_, `${app.url}/carrel.v1.${method}`]);
  return JSON.parse(stdout) as Record<string, unknown>;
}

async function settled(sessionId: string, turns: number): Promise<void> {
  await expect
    .poll(async () => (await curl("GET", `/v1/sessions/${sessionId}`)).body["session"], { timeout: 20_000 })
    .toMatchObject({ num_turns: turns, user_state: "waiting" });
}

test("one session is driven by gRPC, Connect, buf curl, curl, WebSocket and a browser's fetch", async () => {
  const grpc = createCarrel({ baseUrl: app.url, token, protocol: "grpc" });
  await grpc.registration.register({});
  await grpc.credentials.setApiKey({ apiKey: plantedKey });
  const { session } = await grpc.sessions.createSession({ name: "every surface", initialPrompt: "by gRPC" });
  const sessionId = session!.id;
  await settled(sessionId, 1);

  const connect = createCarrel({ baseUrl: app.url, token, protocol: "connect", httpVersion: "1.1" });
  await connect.channel.sendPrompt({ sessionId, text: "by Connect" });
  await settled(sessionId, 2);

  expect(await bufCurl("ChannelService/SendPrompt", { sessionId, text: "by buf curl" })).toMatchObject({
    seq: expect.any(Number) as number,
  });
  await settled(sessionId, 3);
  expect(await bufCurl("SessionService/GetSession", { sessionId })).toMatchObject({ session: { name: "every surface", numTurns: 3 } });

  const byCurl = await curl("POST", `/v1/sessions/${sessionId}/prompts`, {
    text: 'by curl [[tool Bash {"command":"echo asked-by-curl"}]]',
  });
  expect(byCurl).toMatchObject({ status: 200, body: { queued: false } });
  await expect
    .poll(async () => (await curl("GET", `/v1/sessions/${sessionId}/pending`)).body["approvals"], { timeout: 20_000 })
    .toHaveLength(1);
  const [approval] = (await curl("GET", `/v1/sessions/${sessionId}/pending`)).body["approvals"] as [{ tool_use_id: string }];
  expect(await curl("POST", `/v1/sessions/${sessionId}/approvals/${approval.tool_use_id}`, { approved: true })).toMatchObject({
    status: 200,
  });
  await settled(sessionId, 4);

  const socket = new WsClient(`${app.url.replace("http", "ws")}/v1/sessions/${sessionId}/ws?token=${token}`);
  const frames: { type: string; payload: Record<string, unknown> }[] = [];
  socket.on("message", (data: Buffer) => void frames.push(JSON.parse(data.toString()) as (typeof frames)[number]));
  await once(socket, "open");
  await expect.poll(() => frames.some(({ type, payload }) => type === "history" && payload["complete"] === true)).toBe(true);
  socket.send(JSON.stringify({ type: "prompt", payload: { text: "by WebSocket" } }));
  await expect.poll(() => frames.filter(({ type }) => type === "result").length, { timeout: 20_000 }).toBe(1);
  socket.close();

  const browser = await fetch(`${app.url}/carrel.v1.ChannelService/SendPrompt`, {
    method: "POST",
    headers: {
      origin: allowedOrigin,
      authorization: `Bearer ${token}`,
      "content-type": "application/json",
      "connect-protocol-version": "1",
    },
    body: JSON.stringify({ sessionId, text: "by fetch" }),
  });
  expect([browser.status, browser.headers.get("access-control-allow-origin")]).toEqual([200, allowedOrigin]);
  await settled(sessionId, 6);

  const said: string[] = [];
  for await (const event of grpc.allEvents(sessionId)) if (event.payload?.kind.case === "user") said.push(event.payload.kind.value.text);
  expect(said.map((text) => text.split(" [[")[0])).toEqual(["by gRPC", "by Connect", "by buf curl", "by curl", "by WebSocket", "by fetch"]);
  expect(await curl("DELETE", `/v1/sessions/${sessionId}`)).toMatchObject({ status: 200, body: { terminated: true } });
  grpc.close();
  connect.close();
});

test("a browser's preflight is answered for an allowed origin and refused for another", async () => {
  const preflight = (origin: string) =>
    fetch(`${app.url}/v1/sessions`, {
      method: "OPTIONS",
      headers: { origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type" },
    });
  const allowed = await preflight(allowedOrigin);
  expect([allowed.status, allowed.headers.get("access-control-allow-origin")]).toEqual([204, allowedOrigin]);
  expect(allowed.headers.get("access-control-allow-headers")?.toLowerCase()).toContain("authorization");
  const refused = await preflight("https://elsewhere.example");
  expect([refused.status, refused.headers.get("access-control-allow-origin")]).toEqual([403, null]);
  const socket = new WsClient(`${app.url.replace("http", "ws")}/v1/sessions/ses_${"0".repeat(32)}/ws`, {
    origin: "https://elsewhere.example",
  });
  const [, answer] = (await once(socket, "unexpected-response")) as [unknown, { statusCode: number }];
  expect(answer.statusCode).toBe(403);
});
