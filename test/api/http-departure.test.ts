import http2 from "node:http2";
import net from "node:net";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";

let installation: Installation;
let app: App;

beforeAll(async () => {
  installation = await createInstallation({ CARREL_STANDBY_SANDBOXES: "0" });
  app = await startApp(installation);
});

afterAll(async () => {
  await app?.close();
  await installation?.remove();
});

test("an HTTP/2 client that closes its side in the middle of a stream is let go", async () => {
  const { hostname, port } = new URL(app.url);
  const socket = net.connect(Number(port), hostname);
  const session = http2.connect(app.url, { createConnection: () => socket });
  session.on("error", () => undefined);
  const stream = session.request({
    ":method": "POST",
    ":path": "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "content-type": "application/grpc+proto",
    te: "trailers",
  });
  stream.on("error", () => undefined);
  // Headers of a bidirectional stream come with its first message; the request stays open.
  await new Promise<void>((resolve) => session.once("remoteSettings", () => resolve()));
  socket.end();
  const closed = vi.fn();
  socket.once("close", closed);
  await vi.waitFor(() => expect(closed).toHaveBeenCalled(), 3_000);
});
