import net from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { exchange, type Listening, listen, proxyAuth, startBroker, statusOf } from "./broker-harness.ts";

let echo: Listening;
let echoConnections = 0;
beforeAll(async () => {
  echo = await listen(
    net.createServer((socket) => {
      echoConnections += 1;
      socket.on("error", () => undefined);
      socket.pipe(socket);
    }),
  );
});
afterAll(() => echo?.close());

describe("a server that misbehaves", () => {
  test.each([
    ["is no HTTP server", "SSH-2.0-x\r\n\r\n"],
    ["switches protocols unasked", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nGET"],
    ["frames twice", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    ["closes at once", ""],
  ])("and %s is answered for with 502", async (_, bytes) => {
    const odd = await listen(
      net.createServer((socket) => {
        socket.on("error", () => undefined);
        socket.on("data", () => socket.end(bytes));
      }),
    );
    const one = await startBroker({
      allowedHosts: ["odd.test"],
      outbound: { resolve: async () => ["127.0.0.1"], allowPrivate: [`odd.test:${odd.port}`] },
    });
    expect(statusOf(await exchange(one.port, `GET http://odd.test:${odd.port}/ HTTP/1.1\r\nHost: x\r\n${proxyAuth()}\r\n`))).toBe(502);
    await one.close();
    await odd.close();
  });
});

test("a session has so many connections at once, and a closed one makes room", async () => {
  const one = await startBroker({
    allowedHosts: ["e.test"],
    outbound: { resolve: async () => ["127.0.0.1"], allowPrivate: [`e.test:${echo.port}`] },
    limits: { connections: 3 },
  });
  const request = `CONNECT e.test:${echo.port} HTTP/1.1\r\nHost: x\r\n${proxyAuth()}\r\n`;
  const open = await Promise.all(
    Array.from(
      { length: 3 },
      () =>
        new Promise<net.Socket>((resolve) => {
          const socket = net.connect(one.port, "127.0.0.1", () => socket.write(request));
          socket.once("data", () => resolve(socket));
        }),
    ),
  );
  expect(statusOf(await exchange(one.port, request))).toBe(429);
  open[0]!.destroy();
  await expect.poll(async () => statusOf(await exchange(one.port, request))).toBe(200);
  const closed = Promise.all(open.slice(1).map((socket) => new Promise((resolve) => socket.once("close", resolve))));
  await one.close();
  await closed;
});

test("a client that goes before its tunnel is open leaves nothing behind", async () => {
  let answerName: (addresses: string[]) => void = () => undefined;
  const asked = new Promise<void>((resolve) => {
    answerName = () => resolve();
  });
  let release: (addresses: string[]) => void = () => undefined;
  const one = await startBroker({
    allowedHosts: ["e.test"],
    outbound: {
      resolve: () =>
        new Promise((resolve) => {
          release = resolve;
          answerName([]);
        }),
      allowPrivate: [`e.test:${echo.port}`],
    },
  });
  const before = echoConnections;
  const socket = net.connect(one.port, "127.0.0.1", () =>
    socket.write(`CONNECT e.test:${echo.port} HTTP/1.1\r\nHost: x\r\n${proxyAuth()}\r\n`),
  );
  await asked;
  socket.resetAndDestroy();
  await new Promise((resolve) => setTimeout(resolve, 50));
  release(["127.0.0.1"]);
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(echoConnections).toBe(before);
  await one.close();
});

test("a server that ends its half first still hears the client to its end", async () => {
  let heard = "";
  const finished = Promise.withResolvers<void>();
  const early = await listen(
    net.createServer({ allowHalfOpen: true }, (socket) => {
      socket.end("hello");
      socket.on("data", (chunk) => {
        heard += chunk.toString();
      });
      socket.on("end", finished.resolve);
    }),
  );
  const one = await startBroker({
    allowedHosts: ["e.test"],
    outbound: { resolve: async () => ["127.0.0.1"], allowPrivate: [`e.test:${early.port}`] },
  });
  const socket = net.connect({ port: one.port, host: "127.0.0.1", allowHalfOpen: true });
  socket.write(`CONNECT e.test:${early.port} HTTP/1.1\r\nHost: x\r\n${proxyAuth()}\r\n`);
  await new Promise((resolve) => socket.resume().once("end", resolve));
  socket.end("said after your end");
  await finished.promise;
  expect(heard).toBe("said after your end");
  await one.close();
  await early.close();
});
