import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { get } from "node:https";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startStub } from "../contract/protocols-stub.ts";

const directory = mkdtempSync(join(tmpdir(), "carrel-tls-"));
let server: Awaited<ReturnType<typeof startStub>>;
let cert: Buffer;
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
      "/CN=localhost",
      "-addext",
      "subjectAltName=IP:127.0.0.1",
      "-keyout",
      keyFile,
      "-out",
      certFile,
    ],
    { stdio: "ignore" },
  );
  cert = readFileSync(certFile);
  server = await startStub({ tls: { key: readFileSync(keyFile), cert }, limits: { silentConnectionsPerAddress: 2 } });
});
afterAll(async () => {
  await server.close();
  rmSync(directory, { recursive: true });
});

test("one secure port serves HTTP/2 to who asks for it and HTTP/1.1 to who does not", async () => {
  const session = connectHttp2(server.url, { ca: cert });
  const stream = session.request({ ":path": "/healthz", origin: server.url });
  const headers = await new Promise<Record<string, unknown>>((resolve, reject) => {
    session.on("error", reject);
    stream.on("response", resolve);
  });
  expect([headers[":status"], headers["access-control-allow-origin"]]).toEqual([200, server.url]);
  session.destroy();

  for (let index = 0; index < 4; index++) {
    const [version, status] = await new Promise<[string, number | undefined]>((resolve, reject) => {
      get(`${server.url}/healthz`, { ca: cert, agent: false }, (response) => {
        response.resume();
        resolve([response.httpVersion, response.statusCode]);
      }).on("error", reject);
    });
    expect([version, status]).toEqual(["1.1", 200]);
  }
});

test("what is not TLS, and who leaves in the middle of a handshake, do no harm", async () => {
  for (const bytes of ["GET / HTTP/1.1\r\nhost: x\r\n\r\n", "\x16\x03\x01", ""]) {
    await new Promise<void>((resolve) => {
      const socket = connect(server.port, "127.0.0.1", () => {
        socket.write(bytes);
        setTimeout(() => socket.resetAndDestroy(), 30);
      });
      socket.on("error", () => socket.destroy());
      socket.on("close", () => resolve());
    });
  }
  const answer = await new Promise((resolve, reject) => {
    get(`${server.url}/healthz`, { ca: cert, agent: false }, (response) => resolve(response.resume().statusCode)).on("error", reject);
  });
  expect(answer).toBe(200);
});
