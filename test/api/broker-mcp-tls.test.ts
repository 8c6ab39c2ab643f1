import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import https from "node:https";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import tls from "node:tls";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Broker, exchange, type Listening, listen, otherToken, proxyAuth, startBroker, statusOf, token } from "./broker-harness.ts";

const directory = mkdtempSync(join(tmpdir(), "carrel-mcp-tls-"));
let cert: Buffer;
let upstream: Listening;
let broker: Broker & { otherPort: number };
let connections = 0;
const names: (string | false | null)[] = [];

beforeAll(async () => {
  const [keyFile, certFile] = [join(directory, "key.pem"), join(directory, "cert.pem")];
  execFileSync(
    "openssl",
    [
      "req",
      "-x509",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:P-256",
      "-nodes",
      "-days",
      "2",
      "-subj",
      "/CN=tools.test",
      "-addext",
      "subjectAltName=DNS:tools.test",
      "-keyout",
      keyFile,
      "-out",
      certFile,
    ],
    { stdio: "ignore" },
  );
  cert = readFileSync(certFile);
  tls.setDefaultCACertificates([...tls.getCACertificates("default"), cert.toString()]);
  const server = https.createServer({ key: readFileSync(keyFile), cert }, (request, response) =>
    response.end(`for ${request.headers["x-key"]}`),
  );
  server.on("secureConnection", (socket: tls.TLSSocket) => {
    connections += 1;
    names.push(socket.servername);
  });
  upstream = await listen(server);
  const at = (host: string) => ({ type: "http" as const, url: `https://${host}:${upstream.port}/mcp`, headers: { "X-Key": "secret" } });
  broker = await startBroker({
    allowedHosts: ["tools.test"],
    outbound: { resolve: async () => ["127.0.0.1"], allowPrivate: [`tools.test:${upstream.port}`, `wrong.test:${upstream.port}`] },
    servers: { tools: at("tools.test"), wrong: at("wrong.test") },
  });
});
afterAll(async () => {
  await broker?.close();
  await upstream?.close();
  rmSync(directory, { recursive: true });
});

const post = (name: string, port = broker.port, key = token) =>
  exchange(port, `POST /mcp/${name} HTTP/1.1\r\nHost: x\r\nx-api-key: ${key}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}`);

test("a secure server is reached by its name, over a connection that one session keeps to itself", async () => {
  expect(await post("tools")).toContain("for secret");
  expect(await post("tools")).toContain("for secret");
  expect([connections, names]).toEqual([1, ["tools.test"]]);
  expect(await post("tools", broker.otherPort, otherToken)).toContain("for secret");
  expect(connections).toBe(2);
});

test("a server whose certificate is for another name gets no header", async () => {
  const answer = await post("wrong");
  expect(statusOf(answer)).toBe(502);
  expect(answer).not.toContain("for secret");
  expect(broker.logged.join("")).toContain("ERR_TLS_CERT_ALTNAME_INVALID");
});

test("a client speaks TLS with the host itself through CONNECT", async () => {
  const socket = net.connect(broker.port, "127.0.0.1", () =>
    socket.write(`CONNECT tools.test:${upstream.port} HTTP/1.1\r\nHost: x\r\n${proxyAuth()}\r\n`),
  );
  await new Promise((resolve) => socket.once("data", resolve));
  const request = https
    .request({ host: "tools.test", path: "/", createConnection: () => tls.connect({ socket, servername: "tools.test", ca: cert }) })
    .end();
  const status = await new Promise((resolve, reject) =>
    request.on("error", reject).on("response", (response) => resolve(response.resume().statusCode)),
  );
  expect(status).toBe(200);
});
