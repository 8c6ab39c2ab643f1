import type { IncomingMessage } from "node:http";
import net from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  type Broker,
  basic,
  exchange,
  type Listening,
  listen,
  otherToken,
  proxyAuth,
  startBroker,
  startUpstream,
  statusOf,
  token,
} from "./broker-harness.ts";

let upstream: Listening;
let echo: Listening;
let broker: Broker & { otherPort: number };
let arrived: { method: string; url: string; headers: IncomingMessage["headers"]; body: string }[] = [];

beforeAll(async () => {
  upstream = await startUpstream((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      arrived.push({ method: request.method!, url: request.url!, headers: request.headers, body: Buffer.concat(chunks).toString() });
      if (request.url === "/redirect")
        return response.writeHead(302, { location: "http://elsewhere.test/", connection: "x-hop", "x-hop": "1", "x-kept": "2" }).end();
      if (request.url === "/cookies") return response.writeHead(200, { "set-cookie": ["a=1", "b=2"] }).end("ok");
      response.end(`seen ${request.url}`);
    });
  });
  // Says back what it hears; and "bye" once the other side has ended its half.
  echo = await listen(
    net.createServer({ allowHalfOpen: true }, (socket) => {
      socket.on("error", () => undefined);
      socket.on("data", (chunk) => {
        if (!socket.write(chunk)) {
          socket.pause();
          socket.once("drain", () => socket.resume());
        }
      });
      socket.on("end", () => socket.end("bye"));
    }),
  );
  const opened = ["allowed.test", "other.test", "127.0.0.1", "a.sub.test"].flatMap((host) => [
    `${host}:${upstream.port}`,
    `${host}:${echo.port}`,
  ]);
  broker = await startBroker({
    allowedHosts: ["allowed.test", "*.sub.test", "127.0.0.1", "private.test", "nowhere.test", "silent.test"],
    outbound: {
      resolve: async (name) => {
        if (name === "nowhere.test") throw new Error("queryA ENOTFOUND nowhere.test");
        return [name === "private.test" ? "10.9.8.7" : "127.0.0.1"];
      },
      allowPrivate: [...opened, "silent.test:1"],
    },
    limits: { idleMs: 1_500 },
  });
});
afterAll(async () => {
  await broker?.close();
  await upstream?.close();
  await echo?.close();
});
beforeEach(() => {
  arrived = [];
  broker.decisions.length = 0;
});

const connect = (target: string, extra = proxyAuth()) =>
  exchange(broker.port, `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${extra}\r\n`);
const get = (uri: string, extra = proxyAuth()) =>
  exchange(broker.port, `GET ${uri} HTTP/1.1\r\nHost: whatever.test\r\nConnection: close\r\n${extra}\r\n`);

/** A tunnel to the echo server, past its handshake. */
function tunnel(): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ port: broker.port, host: "127.0.0.1", allowHalfOpen: true }, () =>
      socket.write(`CONNECT allowed.test:${echo.port} HTTP/1.1\r\nHost: x\r\n${proxyAuth()}\r\n`),
    );
    socket.once("data", (chunk) =>
      chunk.toString() === "HTTP/1.1 200 Connection Established\r\n\r\n" ? resolve(socket) : reject(new Error(chunk.toString())),
    );
    socket.once("error", reject);
  });
}

describe("who asks", () => {
  test.each([
    ["nothing", ""],
    ["a wrong token", proxyAuth("sk-ant-carrel-guessed")],
    ["the token of another box", proxyAuth(otherToken)],
    ["another user name", `Proxy-Authorization: ${basic(token, "root")}\r\n`],
    ["a bearer", `Proxy-Authorization: Bearer ${token}\r\n`],
    ["an Authorization header", `Authorization: ${basic()}\r\n`],
    ["no Base64", "Proxy-Authorization: Basic ///%%%\r\n"],
    ["an endless token", proxyAuth("x".repeat(2_000))],
  ])("with %s is asked to say so, in both ways, and reaches nothing", async (_, header) => {
    for (const answer of [
      await connect(`allowed.test:${upstream.port}`, header),
      await get(`http://allowed.test:${upstream.port}/`, header),
    ]) {
      expect(statusOf(answer)).toBe(407);
      expect(answer.toLowerCase()).toContain('proxy-authenticate: basic realm="carrel"');
    }
    expect([arrived, broker.decisions]).toEqual([[], []]);
  });

  test("a token is worth nothing through the socket of another box", async () => {
    const request = `CONNECT allowed.test:${upstream.port} HTTP/1.1\r\nHost: x\r\n`;
    expect(statusOf(await exchange(broker.otherPort, `${request}${proxyAuth()}\r\n`))).toBe(407);
    expect(statusOf(await exchange(broker.otherPort, `${request}${proxyAuth(otherToken)}\r\n`))).toBe(200);
  });
});

describe("CONNECT", () => {
  test("carries bytes both ways, also those that come with the request, and a half that ends leaves the other", async () => {
    const answer = await exchange(broker.port, `CONNECT allowed.test:${echo.port} HTTP/1.1\r\nHost: x\r\n${proxyAuth()}\r\nearly bytes`);
    expect(answer).toBe("HTTP/1.1 200 Connection Established\r\n\r\nearly bytes");
    const socket = await tunnel();
    let heard = "";
    const ended = new Promise<void>((resolve) => socket.once("end", resolve));
    socket.on("data", (chunk) => {
      heard += chunk.toString();
    });
    socket.end("last words, ");
    await ended;
    expect(heard).toBe("last words, bye");
    expect(broker.decisions).toEqual(Array(2).fill({ host: "allowed.test", port: echo.port, allowed: true, reason: "listed" }));
  });

  test("goes at the pace of the reader, and loses nothing", async () => {
    const socket = await tunnel();
    const blocks = 512;
    const block = Buffer.alloc(64 * 1024, 7);
    socket.pause();
    for (let sent = 0; sent < blocks; sent += 1) socket.write(block);
    await new Promise((resolve) => setTimeout(resolve, 500));
    // Nobody reads, so it could not all be sent: the proxy holds back instead of storing it.
    expect(socket.writableLength).toBeGreaterThan(block.length);
    let heard = 0;
    const done = new Promise<void>((resolve) => socket.once("end", resolve));
    socket.on("data", (chunk) => {
      heard += chunk.length;
    });
    socket.resume();
    socket.end();
    await done;
    expect(heard).toBe(blocks * block.length + "bye".length);
  });

  test("is cut when nothing passes for a while, on both sides, and its place is free again", async () => {
    const socket = await tunnel();
    const started = performance.now();
    await new Promise<void>((resolve) => socket.once("close", () => resolve()).once("end", () => socket.end()));
    expect(performance.now() - started).toBeGreaterThan(1_000);
  });

  test.each([
    "",
    "/",
    "*",
    "allowed.test",
    "allowed.test:",
    "allowed.test:0",
    "allowed.test:99999",
    "allowed.test:443:443",
    "user@allowed.test:443",
    "carrel:x@allowed.test:443",
    "http://allowed.test:443",
    "allowed.test:443/path",
    "allowed.test:443?x",
    "allowed.test:443#x",
    "allowed.test.:443",
    "allowed..test:443",
    "evil.test%00.allowed.test:443",
    "evil.test\0.allowed.test:443",
    "evil.test\\.allowed.test:443",
    "allowed.test%2eevil.test:443",
    "[::1%25lo]:443",
    "[::1:443",
    "::1:443",
    "a.sub.test\t:443",
    "all\u00f6wed.test:443",
    `${"a".repeat(300)}.test:443`,
    `${"a".repeat(64)}.sub.test:443`,
  ])("with %j is refused before anything is looked up", async (target) => {
    const answer = await connect(target);
    expect([400, 0]).toContain(statusOf(answer));
    expect(answer).not.toContain("200");
    expect([arrived, broker.decisions]).toEqual([[], []]);
  });

  test.each([
    ["evil.test:443", "not_listed"],
    ["allowed.test.evil.test:443", "not_listed"],
    ["badallowed.test:443", "not_listed"],
    ["sub.test:443", "not_listed"],
    ["127.0.0.2:443", "not_listed"],
    ["[::1]:443", "not_listed"],
    ["allowed.test:22", "port"],
    ["private.test:443", "private_address"],
    ["127.0.0.1:443", "private_address"],
    ["2130706433:80", "private_address"],
    ["0x7f.1:80", "private_address"],
    ["[::ffff:127.0.0.1]:80", "private_address"],
  ])("%s is denied: %s", async (target, reason) => {
    const answer = await connect(target);
    expect(statusOf(answer)).toBe(403);
    const [, body] = answer.split("\r\n\r\n");
    expect(body).toMatch(/^Carrel: [^\n]+allowed_hosts[^\n]*\n$/);
    expect(answer).not.toContain("10.9.8.7");
    // Each is told, but one host only once a minute.
    expect(broker.decisions.map((decision) => decision.reason).filter((told) => told !== reason)).toEqual([]);
  });

  test("of a name that is not known, or a host that does not answer, is told apart from a denial", async () => {
    expect(statusOf(await connect("nowhere.test:443"))).toBe(502);
    expect(statusOf(await connect("silent.test:1"))).toBe(502);
    expect(broker.decisions.map(({ reason }) => reason)).toEqual(["unresolved", "unreachable"]);
  });

  test("a denied host is told once, however often it is asked for", async () => {
    for (let again = 0; again < 5; again += 1) expect(statusOf(await connect("again.test:443"))).toBe(403);
    expect(broker.decisions).toEqual([{ host: "again.test", port: 443, allowed: false, reason: "not_listed" }]);
    expect(broker.logged.filter((line) => line.includes("again.test"))).toHaveLength(5);
  });
});

describe("plain HTTP", () => {
  test("is written anew: for the judged host, without what was between client and proxy", async () => {
    const answer = await get(
      `HTTP://ALLOWED.test:${upstream.port}/path?q=1`,
      `${proxyAuth()}Proxy-Connection: keep-alive\r\nConnection: x-named\r\nX-Named: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: websocket\r\nX-Kept: 2\r\nCookie: mine=1\r\nAuthorization: Bearer mine\r\n`,
    );
    expect(statusOf(answer)).toBe(200);
    expect(answer).toContain("seen /path?q=1");
    const [{ url, headers }] = arrived as [(typeof arrived)[number]];
    expect(url).toBe("/path?q=1");
    expect(headers).toEqual({
      host: `allowed.test:${upstream.port}`,
      connection: "close",
      "x-kept": "2",
      cookie: "mine=1",
      authorization: "Bearer mine",
    });
    expect(broker.logged.join("")).not.toContain("q=1");
    expect(broker.logged.join("")).not.toContain(token);
  });

  test("a redirect is the client's to follow, and each header passes as it came", async () => {
    const redirect = await get(`http://allowed.test:${upstream.port}/redirect`);
    expect(statusOf(redirect)).toBe(302);
    expect(redirect).toContain("location: http://elsewhere.test/");
    expect([redirect.includes("x-hop: 1"), redirect.includes("x-kept: 2")]).toEqual([false, true]);
    expect(arrived).toHaveLength(1);
    expect((await get(`http://allowed.test:${upstream.port}/cookies`)).match(/set-cookie: [ab]=/g)).toHaveLength(2);
  });

  test.each([
    [`http://user@allowed.test/`, 400],
    [`http://user:pass@allowed.test/`, 400],
    [`http://allowed.test@evil.test/`, 400],
    [`http://evil.test\\@allowed.test/`, 400],
    [`http://evil.test%00.allowed.test/`, 400],
    [`http://allowed.test./`, 400],
    [`https://allowed.test/`, 400],
    [`ftp://allowed.test/`, 400],
    [`http://allowed.test/#@evil.test/`, 400],
    [`http:///allowed.test/`, 400],
    [`/etc/passwd`, 400],
    [`http://evil.test/`, 403],
    [`http://127.0.0.1/`, 403],
    [`http://0177.0.0.1/`, 403],
    [`http://169.254.169.254/latest/meta-data/`, 403],
    [`http://private.test/`, 403],
    [`http://allowed.test:22/`, 403],
  ])("%s is refused with %d", async (uri, status) => {
    // Some never get past Node's own reading, which is as good.
    expect([status, 400]).toContain(statusOf(await get(uri)));
    expect(arrived).toEqual([]);
  });

  test("the Host header decides nothing", async () => {
    const answer = await exchange(
      broker.port,
      `GET http://evil.test/ HTTP/1.1\r\nHost: allowed.test:${upstream.port}\r\n${proxyAuth()}Connection: close\r\n\r\n`,
    );
    expect(statusOf(answer)).toBe(403);
    expect(arrived).toEqual([]);
  });
});

describe("a request that two readers could read differently", () => {
  const uri = () => `http://allowed.test:${upstream.port}/outer`;
  const smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
  test.each([
    ["length and chunks", `Content-Length: ${smuggled.length + 5}\r\nTransfer-Encoding: chunked\r\n`, `0\r\n\r\n${smuggled}`],
    ["chunks and length", `Transfer-Encoding: chunked\r\nContent-Length: 4\r\n`, `0\r\n\r\n${smuggled}`],
    ["two lengths", `Content-Length: 0\r\nContent-Length: ${smuggled.length}\r\n`, smuggled],
    ["a list of lengths", `Content-Length: 0, ${smuggled.length}\r\n`, smuggled],
    ["a signed length", "Content-Length: +0\r\n", smuggled],
    ["an unknown coding", "Transfer-Encoding: xchunked\r\n", `0\r\n\r\n${smuggled}`],
    ["a coding before chunked", "Transfer-Encoding: gzip, chunked\r\n", `0\r\n\r\n${smuggled}`],
    ["chunked twice", "Transfer-Encoding: chunked, chunked\r\n", `0\r\n\r\n${smuggled}`],
    ["chunked in two headers", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", `0\r\n\r\n${smuggled}`],
    ["a folded header", "Transfer-Encoding:\r\n chunked\r\n", `0\r\n\r\n${smuggled}`],
    ["a space before the colon", "Transfer-Encoding : chunked\r\n", `0\r\n\r\n${smuggled}`],
    ["a vertical tab", "Transfer-Encoding: \x0bchunked\r\n", `0\r\n\r\n${smuggled}`],
    ["a bare LF", "X: y\nTransfer-Encoding: chunked\r\n", `0\r\n\r\n${smuggled}`],
    ["a bare CR", "X: y\rTransfer-Encoding: chunked\r\n", `0\r\n\r\n${smuggled}`],
    ["a NUL", "X: a\0b\r\n", ""],
    ["a length named away", `Connection: content-length\r\nContent-Length: ${smuggled.length}\r\n`, smuggled],
    ["a body that nothing announces", "", smuggled],
    ["a chunk extension with a bare LF", "Transfer-Encoding: chunked\r\n", `1;a\n=b\r\nx\r\n0\r\n\r\n${smuggled}`],
  ])("%s: nothing inside it arrives as a request of its own", async (_, headers, body) => {
    for (const method of ["GET", "POST"]) {
      await exchange(broker.port, `${method} ${uri()} HTTP/1.1\r\nHost: x\r\n${proxyAuth()}${headers}\r\n${body}`);
    }
    expect(arrived.filter(({ url }) => url !== "/outer")).toEqual([]);
    for (const { headers: seen } of arrived)
      expect(Object.keys(seen).filter((name) => name === "content-length" || name === "transfer-encoding").length).toBeLessThan(2);
  });

  test("a length that is named away frames the body all the same", async () => {
    const headers = `Connection: content-length\r\nContent-Length: ${smuggled.length}\r\n`;
    await exchange(broker.port, `GET ${uri()} HTTP/1.1\r\nHost: x\r\n${proxyAuth()}${headers}\r\n${smuggled}`);
    expect(arrived.map(({ url, body }) => [url, body])).toEqual([["/outer", smuggled]]);
  });

  test("the body of a GET stays a body", async () => {
    await exchange(
      broker.port,
      `GET ${uri()} HTTP/1.1\r\nHost: x\r\n${proxyAuth()}Transfer-Encoding: chunked\r\n\r\n${smuggled.length.toString(16)}\r\n${smuggled}\r\n0\r\n\r\n`,
    );
    expect(arrived.map(({ url, body }) => [url, body])).toEqual([["/outer", smuggled]]);
  });

  test("each request of a connection is judged anew", async () => {
    const next = (host: string) => `GET http://${host}:${upstream.port}/ HTTP/1.1\r\nHost: x\r\n${proxyAuth()}\r\n`;
    const answers = await exchange(broker.port, next("allowed.test") + next("evil.test") + next("allowed.test"));
    expect(answers.match(/HTTP\/1\.1 \d+/g)).toEqual(["HTTP/1.1 200", "HTTP/1.1 403", "HTTP/1.1 200"]);
    expect(arrived).toHaveLength(2);
  });
});
