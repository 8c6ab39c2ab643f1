import { connect as connectHttp2, constants } from "node:http2";
import { connect, type Socket } from "node:net";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { afterEach, describe, expect, test } from "vitest";
import { ChannelService } from "../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { SessionService } from "../../gen/carrel/v1/session_service_pb.ts";
import { reasonOf } from "../../server/errors.ts";
import { httpVersions, plainRequest, transportOf } from "../contract/protocols-client.ts";
import { knownId, startStub, stubToken, stuckId } from "../contract/protocols-stub.ts";

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const server of open.splice(0)) await server.close();
});

async function start(options: Parameters<typeof startStub>[0] = {}) {
  const server = await startStub(options);
  open.push(server);
  return server;
}

const bearer = { authorization: `Bearer ${stubToken}` };

/** Sends bytes and collects what comes until the server closes; the answer and how long it took. */
function talk(port: number, bytes: string | Buffer): Promise<{ text: string; ms: number }> {
  return new Promise((resolve) => {
    const started = performance.now();
    let text = "";
    const socket = connect(port, "127.0.0.1", () => socket.write(bytes));
    socket.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
    socket.on("error", () => socket.destroy());
    socket.on("close", () => resolve({ text, ms: performance.now() - started }));
  });
}

async function isHealthy(url: string): Promise<boolean> {
  for (const version of httpVersions) {
    const answer = await plainRequest(version, `${url}/v1/sessions/${knownId}`, { headers: bearer });
    if (answer.status !== 200) return false;
  }
  return true;
}

describe("a client that is slow", () => {
  const limits = { headersTimeoutMs: 200, bodyTimeoutMs: 300, idleTimeoutMs: 300 };

  test("is cut when it connects and says nothing", async () => {
    const server = await start({ limits });
    const { text, ms } = await talk(server.port, "");
    expect([text, ms > 150 && ms < 2000]).toEqual(["", true]);
  });

  test("is cut in the middle of HTTP/2's preface", async () => {
    const server = await start({ limits });
    const { ms } = await talk(server.port, "PRI * HTTP/2.0\r\n");
    expect(ms).toBeLessThan(2000);
  });

  test("is answered 408 when its HTTP/1.1 header does not end", async () => {
    const server = await start({ limits });
    const { text, ms } = await talk(server.port, "GET /v1/sessions HTTP/1.1\r\nhost: x\r\nx-slow: 1");
    expect(text).toMatch(/^HTTP\/1.1 408 [^]*"error":"deadline_exceeded"/);
    expect(ms).toBeLessThan(2000);
  });

  test("is cut when its HTTP/2 connection opens no stream", async () => {
    const server = await start({ limits });
    const settings = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    const { ms } = await talk(server.port, Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), settings]));
    expect(ms).toBeLessThan(2000);
  });

  test("is answered 408 when its HTTP/1.1 body does not end", async () => {
    const server = await start({ limits });
    const head = [
      "POST /v1/sessions HTTP/1.1",
      "host: x",
      `authorization: ${bearer.authorization}`,
      "content-type: application/json",
      "content-length: 100",
      "",
      '{"na',
    ].join("\r\n");
    expect((await talk(server.port, head)).text).toMatch(/^HTTP\/1.1 408 [^]*"error":"deadline_exceeded"/);
  });

  test("is answered 408 when its HTTP/2 body does not end, and its connection serves on", async () => {
    const server = await start({ limits });
    for (const path of ["/v1/sessions", "/carrel.v1.SessionService/CreateSession"]) {
      const session = connectHttp2(server.url);
      const slow = session.request(
        { ":method": "POST", ":path": path, ...bearer, "content-type": "application/json" },
        { endStream: false },
      );
      slow.write('{"na');
      const status = await new Promise((resolve) => slow.on("response", (headers) => resolve(headers[":status"])));
      expect(status).toBe(408);
      slow.on("error", () => slow.destroy());
      slow.close();
      const next = session.request({ ":path": "/healthz" });
      expect(await new Promise((resolve) => next.on("response", (headers) => resolve(headers[":status"])))).toBe(200);
      session.destroy();
    }
    expect(JSON.stringify(server.lines)).not.toContain('"level":50');
  });

  test("loses an HTTP/2 connection that it leaves idle", async () => {
    const server = await start({ limits });
    const session = connectHttp2(server.url);
    session.request({ ":path": "/healthz" }).resume();
    await new Promise<void>((resolve) => session.on("close", () => resolve()));
    expect(await isHealthy(server.url)).toBe(true);
  });

  for (const version of httpVersions) {
    test(`keeps a stream of answers over ${version} for longer than every timeout`, async () => {
      const server = await start({ limits });
      const leave = new AbortController();
      const client = createClient(ChannelService, transportOf("connect-json", version, server.url));
      const started = performance.now();
      setTimeout(() => leave.abort(), 900);
      const error = await (async () => {
        for await (const _ of client.watchSessions({}, { headers: bearer, signal: leave.signal }));
      })().catch((reason: unknown) => ConnectError.from(reason));
      expect([error?.code, performance.now() - started > 850]).toEqual([Code.Canceled, true]);
      await expect
        .poll(() => server.lines.some((line) => line.rpc === "carrel.v1.ChannelService/WatchSessions" && line.code === "canceled"))
        .toBe(true);
    });
  }
});

describe("a client that is greedy", () => {
  test("may hold only so many silent connections, and a speaking one is still served", async () => {
    const server = await start({ limits: { silentConnectionsPerAddress: 5 } });
    const silent: Socket[] = [];
    let refused = 0;
    for (let index = 0; index < 8; index++) {
      const socket = connect(server.port, "127.0.0.1");
      socket.on("error", () => socket.destroy());
      socket.on("close", () => refused++);
      silent.push(socket);
      await new Promise((resolve) => socket.once("connect", resolve));
    }
    await expect.poll(() => refused).toBe(3);
    silent[0]!.destroy();
    await expect.poll(() => isHealthy(server.url).catch(() => false)).toBe(true);
    silent.forEach((socket) => socket.destroy());
  });

  test("is answered 431 when its header is too large", async () => {
    const server = await start();
    const { text } = await talk(server.port, `GET /healthz HTTP/1.1\r\nhost: x\r\nx-big: ${"a".repeat(20_000)}\r\n\r\n`);
    expect(text).toMatch(/^HTTP\/1.1 431 [^]*"error":"too_large"/);
    const answer = await plainRequest("http2", `${server.url}/healthz`, { headers: { "x-big": "a".repeat(20_000) } });
    expect([answer.status, (JSON.parse(answer.text) as { error: string }).error]).toEqual([431, "too_large"]);
    await expect(plainRequest("http2", `${server.url}/healthz`, { headers: { "x-big": "a".repeat(200_000) } })).rejects.toThrow();
    expect(await isHealthy(server.url)).toBe(true);
  });

  test("gets a typed answer for what is not HTTP", async () => {
    const server = await start();
    expect((await talk(server.port, "\x16\x03\x01\x02\x00\x01\x00")).text).toMatch(/^HTTP\/1.1 400 [^]*"error":"invalid_argument"/);
    expect((await talk(server.port, "GET / HTTP/1.1\r\n\r\n")).text).toMatch(/^HTTP\/1.1 400 /);
    expect((await talk(server.port, "GET / HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n")).text).toMatch(/^HTTP\/1.1 4/);
    expect(
      (
        await talk(
          server.port,
          `POST /carrel.v1.SessionService/GetSession HTTP/1.1\r\nhost: [\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}`,
        )
      ).text,
    ).toMatch(/^HTTP\/1.1 4/);
    expect(await isHealthy(server.url)).toBe(true);
  });

  test("does not hurt others by resetting streams as fast as it can", async () => {
    const server = await start({ limits: { streamResetBurst: 100, streamResetRate: 10 } });
    const attacker = connectHttp2(server.url);
    const gone = new Promise<boolean>((resolve) => attacker.on("close", () => resolve(true)));
    attacker.on("error", () => attacker.destroy());
    for (let round = 0; round < 20 && !attacker.destroyed; round++) {
      for (let index = 0; index < 50 && !attacker.destroyed; index++) {
        const stream = attacker.request({ ":path": `/v1/sessions/${stuckId}`, ...bearer });
        stream.on("error", () => stream.destroy());
        stream.close(constants.NGHTTP2_CANCEL);
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(await Promise.race([gone, new Promise((resolve) => setTimeout(() => resolve(false), 3000))])).toBe(true);
    expect(await isHealthy(server.url)).toBe(true);
  });

  test("may not open more streams than the limit on one connection", async () => {
    const server = await start({ limits: { streamsPerConnection: 7 } });
    const session = connectHttp2(server.url);
    await new Promise((resolve) => session.on("remoteSettings", resolve));
    expect(session.remoteSettings.maxConcurrentStreams).toBe(7);
    session.destroy();
  });
});

describe("closing", () => {
  test("ends streams at once with a reason to come back", async () => {
    for (const version of httpVersions) {
      const server = await startStub();
      const client = createClient(ChannelService, transportOf("connect-json", version, server.url));
      const started = performance.now();
      const error = await (async () => {
        for await (const { item } of client.watchSessions({}, { headers: bearer }))
          if (item.case === "synced") void server.server.close(5000);
      })().catch((reason: unknown) => reason);
      expect(reasonOf(error)).toBe(ErrorReason.SHUTTING_DOWN);
      await server.server.close(5000);
      expect(performance.now() - started).toBeLessThan(2000);
    }
  });

  test("lets unary calls finish within the grace and refuses what is left after it", async () => {
    for (const version of httpVersions) {
      const server = await startStub();
      const client = createClient(SessionService, transportOf("connect-json", version, server.url));
      const stuck = client.getSession({ sessionId: stuckId }, { headers: bearer }).catch((reason: unknown) => reason);
      await new Promise((resolve) => setTimeout(resolve, 50));
      const started = performance.now();
      await server.server.close(300);
      const took = performance.now() - started;
      expect([reasonOf(await stuck), took > 250 && took < 1500]).toEqual([ErrorReason.SHUTTING_DOWN, true]);
    }
  });
});
