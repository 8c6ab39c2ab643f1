import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { plainRequest } from "../contract/protocols-client.ts";
import { knownId, startStub, stubToken } from "../contract/protocols-stub.ts";

const allowed = "https://app.example";
const foreign = "https://evil.example";

let server: Awaited<ReturnType<typeof startStub>>;
const upgraded: string[] = [];
beforeAll(async () => {
  server = await startStub({
    publicUrl: "https://carrel.example",
    onUpgrade(request, socket) {
      upgraded.push(request.url ?? "");
      socket.end("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    },
  });
});
afterAll(() => server.close());

function preflight(origin: string, path = "/v1/sessions") {
  return plainRequest("http1", server.url + path, {
    method: "OPTIONS",
    headers: {
      origin,
      "access-control-request-method": "POST",
      "access-control-request-headers": "authorization,connect-protocol-version",
    },
  });
}

const json = { authorization: `Bearer ${stubToken}`, "content-type": "application/json" };

describe("a browser on another origin", () => {
  test("passes its preflight when its origin is listed, on REST and on RPC paths", async () => {
    for (const path of ["/v1/sessions", "/carrel.v1.SessionService/CreateSession"]) {
      const answer = await preflight(allowed, path);
      expect(answer.status).toBe(204);
      expect(answer.headers["access-control-allow-origin"]).toBe(allowed);
      expect(answer.headers["access-control-allow-headers"]).toMatch(/Connect-Protocol-Version.*Authorization/i);
      expect(answer.headers["access-control-allow-methods"]).toContain("PATCH");
      expect(answer.headers.vary).toContain("Origin");
    }
  });

  test("is refused at its preflight when its origin is not listed, however alike it looks", async () => {
    for (const origin of [
      foreign,
      "https://app.example.evil.example",
      "http://app.example",
      "https://app.example:444",
      "https://APP.example",
      "null",
    ]) {
      const answer = await preflight(origin);
      expect([origin, answer.status]).toEqual([origin, 403]);
      expect(JSON.parse(answer.text)).toMatchObject({ error: "origin_not_allowed", details: { origin } });
      expect(answer.headers["access-control-allow-origin"]).toBeUndefined();
    }
  });

  test("reads the headers it needs from an answer to a listed origin", async () => {
    const answer = await plainRequest("http2", `${server.url}/carrel.v1.SessionService/GetSession`, {
      method: "POST",
      headers: { ...json, origin: allowed },
      body: JSON.stringify({ sessionId: knownId }),
    });
    expect(answer.status).toBe(200);
    expect(answer.headers["access-control-allow-origin"]).toBe(allowed);
    expect(answer.headers["access-control-expose-headers"]).toMatch(/grpc-status.*Retry-After/i);
  });

  test("may not change anything or open a stream from an origin that is not listed", async () => {
    const calls = [
      ["POST", "/v1/sessions"],
      ["DELETE", `/v1/sessions/${knownId}`],
      ["POST", "/carrel.v1.SessionService/CreateSession"],
      ["POST", "/carrel.v1.ChannelService/WatchSessions"],
    ] as const;
    for (const [method, path] of calls) {
      const answer = await plainRequest("http1", server.url + path, { method, headers: { ...json, origin: foreign }, body: "{}" });
      expect([path, answer.status, (JSON.parse(answer.text) as { error: string }).error]).toEqual([path, 403, "origin_not_allowed"]);
    }
  });

  test("gets no permission to read an answer to a plain GET", async () => {
    const answer = await plainRequest("http1", `${server.url}/v1/sessions`, { headers: { ...json, origin: foreign } });
    expect(answer.status).toBe(200);
    expect(answer.headers["access-control-allow-origin"]).toBeUndefined();
    expect(answer.headers.vary).toBe("Origin");
  });
});

test("the server's own origin is always allowed, by its address and by its public URL", async () => {
  for (const origin of [server.url, "https://carrel.example"]) {
    const answer = await plainRequest("http1", `${server.url}/v1/sessions`, { method: "POST", headers: { ...json, origin }, body: "{}" });
    expect(answer.status).toBe(201);
  }
});

function handshake(path: string, headers: string[], method = "GET"): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    const socket = connect(server.port, "127.0.0.1", () => {
      socket.write(
        [
          `${method} ${path} HTTP/1.1`,
          `host: 127.0.0.1:${server.port}`,
          "connection: upgrade",
          "upgrade: websocket",
          ...headers,
          "",
          "",
        ].join("\r\n"),
      );
    });
    socket.on("data", (chunk: Buffer) => (text += chunk.toString()));
    socket.on("error", reject);
    socket.on("close", () => resolve(text));
  });
}

describe("a WebSocket handshake", () => {
  test("is handed over on both session paths, from no origin, the own and a listed one", async () => {
    for (const [path, headers] of [
      [`/v1/sessions/${knownId}/ws?token=secret-token`, []],
      [`/v1/ws/sessions/${knownId}`, [`origin: ${allowed}`]],
      [`/v1/ws/sessions/${knownId}`, [`origin: ${server.url}`]],
    ] as const) {
      expect(await handshake(path, [...headers])).toMatch(/^HTTP\/1.1 101 /);
    }
    expect(upgraded).toHaveLength(3);
    expect(JSON.stringify(server.lines)).not.toContain("secret-token");
  });

  test("gets a whole HTTP answer when it may not pass", async () => {
    expect(await handshake(`/v1/ws/sessions/${knownId}`, [`origin: ${foreign}`])).toMatch(
      /^HTTP\/1.1 403 [^]*"error":"origin_not_allowed"/,
    );
    expect(await handshake("/v1/sessions", [])).toMatch(/^HTTP\/1.1 404 [^]*"error":"not_found"/);
    expect(await handshake(`/v1/ws/sessions/${knownId}`, [], "POST")).toMatch(/^HTTP\/1.1 405 [^]*"error":"method_not_allowed"/);
  });

  test("an upgrade to anything else is ignored and the request answered as it is", async () => {
    const answer = await plainRequest("http1", `${server.url}/healthz`, {
      headers: { connection: "upgrade, http2-settings", upgrade: "h2c", "http2-settings": "AAMAAABkAAQAAP__" },
    });
    expect(answer.status).toBe(200);
  });
});
