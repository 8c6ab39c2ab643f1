import { randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import WebSocket from "ws";
import { userKey } from "../../server/identity/principal.ts";
import {
  attach,
  clientOf,
  createHarness,
  eventsOf,
  type Frame,
  type Harness,
  ofType,
  type Person,
  type Served,
  type TestClient,
} from "./websocket-harness.ts";

let harness: Harness;
let served: Served;
let owner: Person;
let sessionId: string;

beforeAll(async () => {
  harness = await createHarness();
  served = await harness.serve();
  owner = await harness.person("owner@example.com");
  sessionId = await harness.session(owner);
});
afterAll(() => harness.close());

const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function attached(to: Served = served, options = {}): Promise<TestClient> {
  const client = attach(to, sessionId, owner, "", options);
  await client.next(ofType("session_status"));
  return client;
}

describe("messages", () => {
  it("pass a hundred a second; the next is refused with the time to wait, and the connection stays", async () => {
    const client = await attached();
    for (let index = 0; index < 100; index++) client.send("heartbeat");
    client.send("shout");
    expect((await client.next()).payload).toMatchObject({ code: "rate_limited", retry_after: 1 });
    await pause(1_050);
    for (let index = 0; index < 99; index++) client.send("heartbeat");
    client.send("shout");
    expect((await client.next()).payload.code).toBe("invalid_message");
    expect(client.frames.filter(ofType("error"))).toHaveLength(2);
    client.socket.terminate();
  });

  it("of a flood that does not end close the connection, and cost no more answers than messages are allowed", async () => {
    const flooded = await harness.serve({ messagesPerSecond: 5, floodMs: 1_500 });
    const client = await attached(flooded);
    const flood = setInterval(() => {
      for (let index = 0; index < 50; index++) client.send("heartbeat");
    }, 20);
    const { code } = await client.closed;
    clearInterval(flood);
    expect(code).toBe(1008);
    expect(client.frames.filter(ofType("error")).length).toBeLessThanOrEqual(5 * 3 + 1);
  });

  it("of exactly 1 MiB are read, and one byte more closes with 1009", async () => {
    const client = await attached();
    const frameOf = (bytes: number) => {
      const rest = JSON.stringify({ type: "heartbeat", payload: "" });
      return rest.replace('""', `"${"x".repeat(bytes - rest.length)}"`);
    };
    client.socket.send(frameOf(1024 * 1024));
    client.send("shout");
    expect((await client.next()).payload.code).toBe("invalid_message");
    client.socket.send(frameOf(1024 * 1024 + 1));
    expect((await client.closed).code).toBe(1009);
  });
});

describe("a silent connection", () => {
  it("lives on pongs, which every client sends by itself", async () => {
    const quick = await harness.serve({ pingMs: 150, idleMs: 600 });
    const client = await attached(quick);
    await pause(1_500);
    expect(client.socket.readyState).toBe(WebSocket.OPEN);
    client.socket.terminate();
  });

  it("without a pong is closed with 4101, unless it sends heartbeats", async () => {
    const quick = await harness.serve({ pingMs: 150, idleMs: 800 });
    const silent = await attached(quick, { autoPong: false });
    const started = performance.now();
    const beating = await attached(quick, { autoPong: false });
    const beat = setInterval(() => beating.send("heartbeat"), 200);
    expect((await silent.closed).code).toBe(4101);
    expect(performance.now() - started).toBeLessThan(1_600);
    await pause(800);
    expect(beating.socket.readyState).toBe(WebSocket.OPEN);
    clearInterval(beat);
    expect((await beating.closed).code).toBe(4101);
  });
});

describe("a connection", () => {
  it("is closed with 4001 a minute after its token expired", async () => {
    // Signed in by a token that expired nearly a minute ago.
    const late = await harness.serve({}, (authorize) => async (method, header, values) => {
      await authorize(method, header, values);
      values.set(userKey, { ...values.get(userKey)!, expiresAt: Date.now() - 59_700 });
    });
    const client = await attached(late);
    expect(await client.closed).toEqual({ code: 4001, reason: "the token has expired, sign in again" });
    expect(client.frames.at(-1)?.payload.code).toBe("unauthenticated");
  });

  it("that cannot be decided in time is answered all the same", async () => {
    const stuck = await harness.serve({ handshakeMs: 100 }, () => () => new Promise(() => undefined));
    const inHeader = new WebSocket(`${stuck.url}/v1/sessions/${sessionId}/ws`, { headers: { authorization: `Bearer ${owner.token}` } });
    const status = new Promise((resolve) => {
      inHeader.on("error", () => undefined);
      inHeader.on("unexpected-response", (_request, response) => resolve(response.statusCode));
    });
    expect(await status).toBe(503);
    expect((await clientOf(new WebSocket(`${stuck.url}/v1/sessions/${sessionId}/ws?token=${owner.token}`)).closed).code).toBe(4101);
  });

  it("is closed with 1012 when the server stops, which refuses new ones by then", async () => {
    const stopping = await harness.serve();
    const clients = [await attached(stopping), await attached(stopping)];
    const closed = stopping.handler.close();
    for (const client of clients)
      expect(await client.closed).toMatchObject({ code: 1012, reason: expect.stringContaining("after_seq") as string });
    await closed;
    const late = clientOf(new WebSocket(`${stopping.url}/v1/sessions/${sessionId}/ws?token=${owner.token}`));
    expect((await late.closed).code).toBe(1006);
    await expect.poll(() => harness.feeds.size, { timeout: 12_000 }).toBe(0);
  });

  it("uses no compression, also when the client offers it", async () => {
    const client = await attached(served, { perMessageDeflate: true });
    expect(client.socket.extensions).toBe("");
    client.socket.terminate();
  });
});

/** A client that has shaken hands and reads nothing more. */
async function deafClient(to: Served, path: string): Promise<Socket> {
  const socket = connect(to.port, "127.0.0.1");
  socket.write(
    `GET ${path} HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n` +
      `sec-websocket-key: ${randomBytes(16).toString("base64")}\r\nauthorization: Bearer ${owner.token}\r\n\r\n`,
  );
  await new Promise((resolve) => socket.once("readable", resolve));
  return socket;
}

describe("a client that never reads", () => {
  const eventBytes = 50_000;
  const events = 600;
  const limit = 256 * 1024 + 2 * eventBytes;

  it("of the history or of what happens holds back little in memory, delays nobody, and can resume", async () => {
    const strict = await harness.serve({ stalledMs: 1_500, closeMs: 200 });
    const big = await harness.session(owner);
    for (let index = 0; index < events / 20; index++)
      await harness.append(big, ...Array.from({ length: 20 }, () => "x".repeat(eventBytes)));
    const path = `/v1/sessions/${big}/ws`;
    const inHistory = await deafClient(strict, path);
    const inEvents = await deafClient(strict, `${path}?after_seq=1`);
    const [first, second] = strict.sockets;
    let most = 0;
    const watch = setInterval(() => {
      most = Math.max(most, first!.writableLength, second!.writableLength);
    }, 1);
    const reading = attach(strict, big, owner);
    await reading.next(ofType("session_status"));
    await harness.append(big, "last");
    const last = await reading.next(ofType("assistant"));
    expect(eventsOf(reading.frames)).toHaveLength(last.seq!);
    await expect.poll(() => [first!.destroyed, second!.destroyed], { timeout: 10_000 }).toEqual([true, true]);
    clearInterval(watch);
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThan(limit);
    const codes = harness.lines
      .filter((line) => line.includes(big) && line.includes("socket closed"))
      .map((line) => (JSON.parse(line) as { code: number }).code);
    expect(codes).toHaveLength(2);
    const resumed = attach(strict, big, owner, `?after_seq=${last.seq! - 1}`);
    expect(await resumed.next()).toEqual(last satisfies Frame);
    for (const socket of [inHistory, inEvents]) socket.destroy();
    for (const { socket } of [reading, resumed]) socket.terminate();
  });

  it("but makes the server answer holds back little, too", async () => {
    const strict = await harness.serve({ messagesPerSecond: 100_000, stalledMs: 1_500, closeMs: 200 });
    const client = await deafClient(strict, `/v1/sessions/${sessionId}/ws`);
    const [socket] = strict.sockets;
    let most = 0;
    const watch = setInterval(() => {
      most = Math.max(most, socket!.writableLength);
    }, 1);
    client.on("error", () => undefined);
    // Masked with zeros: an unknown type, answered by an error frame forty times as long.
    const shout = Buffer.concat([Buffer.from([0x81, 0x82, 0, 0, 0, 0]), Buffer.from("{}")]);
    const block = Buffer.alloc(shout.length * 8_000, shout);
    const deadline = performance.now() + 20_000;
    while (!socket!.destroyed && performance.now() < deadline) {
      if (client.writableLength < 1024 * 1024) client.write(block);
      await pause(2);
    }
    clearInterval(watch);
    expect(socket!.destroyed).toBe(true);
    expect(most).toBeLessThan(256 * 1024);
    client.destroy();
  });
});
