import { mkdtempSync, rmSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../../server/errors.ts";
import { plainRequest } from "../contract/protocols-client.ts";
import { knownId, startStub, stubToken } from "../contract/protocols-stub.ts";

const bearer = { authorization: `Bearer ${stubToken}` };
const jsonType = { ...bearer, "content-type": "application/json" };
const paths = ["/v1/sessions", "/carrel.v1.SessionService/CreateSession"];

describe("a request gate", () => {
  test("refuses before the body has come, on every surface", async () => {
    const server = await startStub({
      requestGate: ({ requestHeader }) => {
        if (!requestHeader.has("x-pass")) throw refusal(ErrorReason.PERMISSION_DENIED, "not through this gate");
      },
    });
    for (const path of paths) {
      const session = connectHttp2(server.url);
      const stream = session.request({ ":method": "POST", ":path": path, ...jsonType }, { endStream: false });
      stream.write('{"na');
      expect(await new Promise((resolve) => stream.on("response", (headers) => resolve(headers[":status"])))).toBe(403);
      session.destroy();
      const passed = await plainRequest("http1", server.url + path, {
        method: "POST",
        headers: { ...jsonType, "x-pass": "1" },
        body: "{}",
      });
      expect(passed.status).toBe(path.startsWith("/v1") ? 201 : 200);
    }
    await server.close();
  });

  test("that fails itself is a fault of the server and tells nothing", async () => {
    const server = await startStub({
      requestGate: () => {
        throw new Error("connect ECONNREFUSED 10.0.0.5");
      },
    });
    for (const path of paths) {
      const answer = await plainRequest("http2", server.url + path, { method: "POST", headers: jsonType, body: "{}" });
      expect([answer.status, answer.text.includes("10.0.0.5")]).toEqual([500, false]);
    }
    expect(server.lines.filter((line) => line.level === 50 && JSON.stringify(line).includes("10.0.0.5"))).toHaveLength(2);
    await server.close();
  });
});

test("a Unix socket serves the same as a port", async () => {
  const directory = mkdtempSync(join(tmpdir(), "carrel-socket-"));
  const socketPath = join(directory, "s");
  const server = await startStub({ address: { socketPath } });
  const status = await new Promise((resolve, reject) => {
    httpRequest({ socketPath, path: `/v1/sessions/${knownId}`, headers: bearer }, (response) => {
      response.resume();
      resolve(response.statusCode);
    })
      .on("error", reject)
      .end();
  });
  expect(status).toBe(200);
  await server.close();
  rmSync(directory, { recursive: true });
});

test("a port that is taken is said at once", async () => {
  const server = await startStub();
  await expect(startStub({ address: { host: "127.0.0.1", port: server.port } })).rejects.toMatchObject({ code: "EADDRINUSE" });
  await server.close();
});

test("the fallback answers what is not of the API, and never what is", async () => {
  const server = await startStub({
    fallback(request, response) {
      if (request.url !== "/app") return false;
      response.setHeader("content-type", "text/html");
      response.end("<p>app</p>");
      return true;
    },
  });
  const status = async (path: string) => (await plainRequest("http2", server.url + path, { headers: bearer })).status;
  expect([await status("/app"), await status("/other"), await status("/v1"), await status("/v1/app")]).toEqual([200, 404, 404, 404]);
  await server.close();
});
