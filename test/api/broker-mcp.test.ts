import { randomUUID } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { SSEServerTransport } from "@modelcontextprotocol/sdk/server/sse.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { z } from "zod";
import { type Broker, exchange, type Listening, otherToken, startBroker, startUpstream, statusOf, token } from "./broker-harness.ts";

const secret = "Bearer the-secret-of-the-profile";
let upstream: Listening;
let broker: Broker & { otherPort: number };
let arrived: { method: string; url: string; headers: IncomingMessage["headers"] }[] = [];
let openStreams = 0;
const streamable = new Map<string, StreamableHTTPServerTransport>();
const streams = new Map<string, SSEServerTransport>();
const clients: Client[] = [];

/** A tool server that says what it was sent, one step of it on the way. */
function createTools(): McpServer {
  const tools = new McpServer({ name: "tools", version: "1" });
  tools.registerTool("echo", { inputSchema: { text: z.string() } }, async ({ text }, extra) => {
    await extra.sendNotification({ method: "notifications/message", params: { level: "info", data: "half way" } });
    return { content: [{ type: "text", text }] };
  });
  tools.server.registerCapabilities({ logging: {} });
  return tools;
}

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const url = new URL(request.url!, "http://tools.test");
  arrived.push({ method: request.method!, url: request.url!, headers: request.headers });
  if (url.pathname.startsWith("/odd/")) return odd(url.pathname.slice(5), request, response);
  if (request.headers.authorization !== secret)
    return void response.writeHead(401, { "www-authenticate": "Bearer", "set-cookie": "a=1" }).end();
  if (url.pathname === "/http") {
    const id = request.headers["mcp-session-id"] as string | undefined;
    const known = id === undefined ? undefined : streamable.get(id);
    if (known) return known.handleRequest(request, response);
    const fresh = new StreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      onsessioninitialized: (started) => void streamable.set(started, fresh),
    });
    await createTools().connect(fresh as Parameters<McpServer["connect"]>[0]);
    return fresh.handleRequest(request, response);
  }
  if (url.pathname === "/sse") {
    const stream = new SSEServerTransport("/messages?tenant=7", response);
    streams.set(stream.sessionId, stream);
    openStreams += 1;
    response.once("close", () => {
      openStreams -= 1;
    });
    return createTools().connect(stream);
  }
  const stream = url.pathname === "/messages" ? streams.get(url.searchParams.get("sessionId") ?? "") : undefined;
  if (stream) return stream.handlePostMessage(request, response);
  response.writeHead(404).end();
}

function odd(kind: string, request: IncomingMessage, response: ServerResponse): void {
  const stream = { "content-type": "text/event-stream" };
  if (kind === "redirect") return void response.writeHead(307, { location: "http://127.0.0.1/other" }).end();
  if (kind === "foreign") return void response.writeHead(200, stream).write("event: endpoint\ndata: http://169.254.169.254/latest\n\n");
  if (kind === "userinfo") return void response.writeHead(200, stream).write(`event: endpoint\ndata: //me@${request.headers.host}/m\n\n`);
  if (kind === "zipped") return void response.writeHead(200, { ...stream, "content-encoding": "gzip" }).end("x");
  if (kind === "page") return void response.writeHead(200, { "content-type": "text/html", "set-cookie": "a=1" }).end("<html>");
  if (kind === "cut") return void request.socket.destroy();
  // Takes everything and says how much it was.
  let size = 0;
  request.on("data", (chunk: Buffer) => {
    size += chunk.length;
  });
  request.on("end", () =>
    response
      .writeHead(200, { "content-type": "application/json", "set-cookie": "a=1", "x-internal": "1", "mcp-session-id": "s" })
      .end(JSON.stringify({ size })),
  );
}

beforeAll(async () => {
  upstream = await startUpstream((request, response) => void serve(request, response));
  const at = (path: string, type: "http" | "sse" = "http") => ({
    type,
    url: `http://tools.test:${upstream.port}${path}`,
    headers: { Authorization: secret },
  });
  broker = await startBroker({
    outbound: {
      resolve: async (name) => [name === "private.test" ? "10.9.8.7" : "127.0.0.1"],
      allowPrivate: [`tools.test:${upstream.port}`],
    },
    mcpLimits: { bodyBytes: 100_000, idleMs: 3_000 },
    servers: {
      tools: at("/http"),
      stream: at("/sse", "sse"),
      echo: at("/odd/echo?fixed=1"),
      redirect: at("/odd/redirect"),
      cut: at("/odd/cut"),
      foreign: at("/odd/foreign", "sse"),
      userinfo: at("/odd/userinfo", "sse"),
      zipped: at("/odd/zipped", "sse"),
      page: at("/odd/page", "sse"),
      private: { type: "http", url: "http://private.test/", headers: { Authorization: secret } },
      loopback: { type: "http", url: "http://0x7f.1:1/", headers: {} },
      metadata: { type: "http", url: "http://169.254.169.254/", headers: {} },
      headers: { type: "http", url: at("/odd/echo").url, headers: { "X-Bad": "a\r\nX-Injected: 1" } },
      framing: {
        type: "http",
        url: at("/odd/echo").url,
        headers: { "Content-Length": "0", "Transfer-Encoding": "chunked", Host: "other.test", "X-Key": "k" },
      },
    },
  });
});
afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.close()));
});
afterAll(async () => {
  await broker?.close();
  await upstream?.close();
});
beforeEach(() => {
  arrived = [];
});

const requestInit = { headers: { Authorization: `Bearer ${token}`, Cookie: "mine=1" } };

async function connected(transport: StreamableHTTPClientTransport | SSEClientTransport): Promise<{ client: Client; seen: unknown[] }> {
  const client = new Client({ name: "agent", version: "1" });
  const seen: unknown[] = [];
  client.fallbackNotificationHandler = async ({ params }) => void seen.push(params);
  clients.push(client);
  await client.connect(transport as Parameters<Client["connect"]>[0]);
  return { client, seen };
}

const raw = (name: string, method = "POST", extra = "", body = "{}", key = token) =>
  exchange(
    broker.port,
    `${method} /mcp/${name} HTTP/1.1\r\nHost: x\r\nx-api-key: ${key}\r\nConnection: close\r\n${method === "POST" && !extra ? `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n` : ""}${extra}\r\n${method === "POST" ? body : ""}`,
  );

test("a real client uses a streamable HTTP server through the gateway, which adds the secret", async () => {
  const transport = new StreamableHTTPClientTransport(new URL(`${broker.url}/mcp/tools`), { requestInit });
  const { client } = await connected(transport);
  const answer = await client.callTool({ name: "echo", arguments: { text: "h\u00e9llo" } });
  expect(answer.content).toEqual([{ type: "text", text: "h\u00e9llo" }]);
  expect((await client.listTools()).tools.map(({ name }) => name)).toEqual(["echo"]);
  await transport.terminateSession();
  expect(new Set(arrived.map(({ method }) => method))).toEqual(new Set(["POST", "GET", "DELETE"]));
  for (const { headers, url } of arrived) {
    expect([url, headers.authorization, headers.cookie, headers["x-api-key"], headers.host]).toEqual([
      "/http",
      secret,
      undefined,
      undefined,
      `tools.test:${upstream.port}`,
    ]);
    expect(JSON.stringify(headers)).not.toContain(token);
  }
  expect(arrived.at(-1)?.headers["mcp-session-id"]).toBe([...streamable.keys()].at(-1));
  expect(arrived.at(-1)?.headers["mcp-protocol-version"]).toBeDefined();
});

test("a real client uses an SSE server through the gateway, and its messages go where the server announced", async () => {
  const transport = new SSEClientTransport(new URL(`${broker.url}/mcp/stream`), { requestInit });
  const { client } = await connected(transport);
  const answers = await Promise.all(["one", "two"].map((text) => client.callTool({ name: "echo", arguments: { text } })));
  expect(answers.map(({ content }) => content)).toEqual([[{ type: "text", text: "one" }], [{ type: "text", text: "two" }]]);
  expect(arrived.slice(1).every(({ method, url }) => method === "POST" && /^\/messages\?tenant=7&sessionId=/.test(url))).toBe(true);
  for (const { headers } of arrived) expect([headers.authorization, headers.cookie]).toEqual([secret, undefined]);
  expect(openStreams).toBe(1);
  await client.close();
  await expect.poll(() => openStreams).toBe(0);
});

test("an announced endpoint is open to its session only, for messages only, and no longer than its stream", async () => {
  const gone = new AbortController();
  const response = await fetch(`${broker.url}/mcp/stream`, {
    headers: { "x-api-key": token, accept: "text/event-stream" },
    signal: gone.signal,
  });
  const reader = response.body!.getReader();
  const { value } = await reader.read();
  const [, name] = /^event: endpoint\ndata: \/mcp\/(stream\/[A-Za-z0-9_-]{22})\n\n$/.exec(Buffer.from(value!).toString()) ?? [];
  expect(name).toBeDefined();
  const message = JSON.stringify({ jsonrpc: "2.0", method: "notifications/initialized" });
  expect(statusOf(await raw(name!, "POST", "", message))).toBe(202);
  expect(statusOf(await raw(name!, "GET"))).toBe(405);
  expect(statusOf(await raw(name!.replace("stream", "tools"), "POST", "", message))).toBe(404);
  const foreign = `POST /mcp/${name} HTTP/1.1\r\nHost: x\r\nx-api-key: ${otherToken}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}`;
  expect(statusOf(await exchange(broker.otherPort, foreign))).toBe(404);
  gone.abort();
  await expect.poll(async () => statusOf(await raw(name!, "POST", "", message))).toBe(404);
});

describe("refused, in a shape that clients read:", () => {
  test.each([
    ["unknown", 404],
    ["", 404],
    ["tools/", 404],
    ["tools/messages", 404],
    ["tools?x=1", 404],
    ["tools/../stream", 404],
    ["tools%2f..", 404],
    ["stream/AAAAAAAAAAAAAAAAAAAAAA", 404],
    ["__proto__", 404],
    ["redirect", 502],
    ["cut", 502],
    ["headers", 502],
    ["private", 403],
    ["loopback", 403],
    ["metadata", 403],
  ])("a message to %j", async (name, status) => {
    const answer = await raw(name);
    expect(statusOf(answer)).toBe(status);
    const body = JSON.parse(answer.split("\r\n\r\n")[1]!) as unknown;
    expect(body).toEqual({ jsonrpc: "2.0", error: { code: -32_000, message: expect.stringMatching(/^Carrel: /) }, id: null });
    expect(answer).not.toMatch(/10\.9\.8\.7|the-secret|location:|X-Injected/i);
    expect(arrived.filter(({ url }) => !url.startsWith("/odd/"))).toEqual([]);
  });

  test.each([["zipped"], ["page"], ["redirect"]])("the stream of %s", async (name) => {
    const answer = await raw(name, "GET");
    expect(statusOf(answer)).toBe(502);
    expect(answer).not.toContain("set-cookie");
  });

  test.each([["foreign"], ["userinfo"]])("an endpoint that is %s ends the stream before it is told", async (name) => {
    const answer = await raw(name, "GET");
    expect(statusOf(answer)).toBe(200);
    expect(answer).not.toMatch(/endpoint|169\.254|me@/);
  });

  test.each([
    ["tools", "PUT"],
    ["tools", "OPTIONS"],
    ["stream", "POST"],
    ["stream", "DELETE"],
  ])("of %s the method %s", async (name, method) => {
    expect(statusOf(await raw(name, method, "Accept: */*\r\n", ""))).toBe(405);
    expect(arrived).toEqual([]);
  });

  test.each([
    ["no token", ""],
    ["a wrong one", "sk-ant-carrel-x"],
    ["that of another box", otherToken],
  ])("%s", async (_, key) => {
    expect(statusOf(await raw("tools", "POST", "", "{}", key))).toBe(401);
    expect(arrived).toEqual([]);
  });
});

describe("what passes", () => {
  test("is the protocol's own, and neither cookies nor what a server says to its neighbours", async () => {
    const body = JSON.stringify({ a: 1 });
    const answer = await raw(
      "echo",
      "POST",
      `Content-Length: ${body.length}\r\nContent-Type: application/json\r\nMcp-Session-Id: s1\r\nMcp-Protocol-Version: 2025-06-18\r\nLast-Event-ID: 9\r\nMcp-Param-X: y\r\nOrigin: http://evil.test\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1\r\nExpect: 100-continue\r\n`,
      body,
    );
    expect(answer).toContain('{"size":7}');
    expect(answer).toMatch(/mcp-session-id: s\r\n/i);
    expect(answer).not.toMatch(/set-cookie|x-internal/i);
    const [{ headers, url }] = arrived as [(typeof arrived)[number]];
    expect(url).toBe("/odd/echo?fixed=1");
    expect(Object.keys(headers).sort()).toEqual([
      "accept-encoding",
      "authorization",
      "connection",
      "content-length",
      "content-type",
      "host",
      "last-event-id",
      "mcp-param-x",
      "mcp-protocol-version",
      "mcp-session-id",
    ]);
  });

  test("a header of the profile that frames the message is left out", async () => {
    expect(await raw("framing", "POST", "", '{"a":1}')).toContain('{"size":7}');
    expect([arrived[0]?.headers["x-key"], arrived[0]?.headers.host]).toEqual(["k", `tools.test:${upstream.port}`]);
  });

  test.each([
    ["said", (size: number) => [`Content-Length: ${size}\r\n`, "x".repeat(size)]],
    ["in chunks", (size: number) => ["Transfer-Encoding: chunked\r\n", `${size.toString(16)}\r\n${"x".repeat(size)}\r\n0\r\n\r\n`]],
  ] as const)("is a message up to the limit, its size %s", async (_, message) => {
    expect(await raw("echo", "POST", ...message(100_000))).toContain('{"size":100000}');
    expect(statusOf(await raw("echo", "POST", ...message(100_001)))).toBe(413);
    expect(statusOf(await raw("echo", "POST", ...message(3_000_000)))).toBe(413);
  });

  test.each([
    ["length and chunks", "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nPOST /smuggled HTTP/1.1\r\n\r\n"],
    ["a coding before chunked", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\nPOST /smuggled HTTP/1.1\r\n\r\n"],
    ["a folded header", "X-A: b\r\n c\r\nContent-Length: 0\r\n", ""],
  ])("is never a request with %s", async (_, headers, body) => {
    expect(statusOf(await raw("echo", "POST", headers, body))).toBe(400);
    expect(arrived).toEqual([]);
  });
});

test("nothing secret is in the log", () => {
  expect(broker.logged.join("")).not.toMatch(/the-secret|sk-ant-carrel|X-Injected/);
  expect(broker.logged.length).toBeGreaterThan(0);
});
