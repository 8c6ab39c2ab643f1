import { once } from "node:events";
import http from "node:http";
import net from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterEach, expect, test } from "vitest";
import { forwardLoopback } from "../../../runner/forward.ts";
import { makeTemporaryDirectory, removeDirectory } from "../../support/temporary.ts";

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

function socketPath(): string {
  const directory = makeTemporaryDirectory("forward");
  closers.push(() => removeDirectory(directory));
  return join(directory, "socket");
}

async function serve(path: string): Promise<http.Server> {
  const server = http.createServer(async (request, response) => response.end(`heard ${await text(request)}`)).listen(path);
  await once(server, "listening");
  closers.push(() => server.close());
  return server;
}

test("a request that is made while the control plane is away is answered once it is back", async () => {
  const path = socketPath();
  const { url, close } = await forwardLoopback(path);
  closers.push(close);
  const first = fetch(url, { method: "POST", body: "early" });
  // What it sends lies in the connection by then.
  await new Promise((resolve) => setTimeout(resolve, 100));
  await serve(path);
  expect(await (await first).text()).toBe("heard early");
});

test("who waits for a control plane that stays away is told so in the end", async () => {
  const { url, close } = await forwardLoopback(socketPath(), 50);
  closers.push(close);
  const socket = net.connect(Number(new URL(url).port), "127.0.0.1");
  socket.write("GET / HTTP/1.1\r\n\r\n");
  await once(socket, "close");
});
