/** The runner's channel on the real service, over a socket that is cut as a server's end cuts it. */
import http2 from "node:http2";
import type { Socket } from "node:net";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openChannel } from "../../runner/channel.ts";
import { createJournalCore, type JournalCore } from "../support/journal-core.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";

const directory = makeTemporaryDirectory("channel");
const socketPath = path.join(directory, "carrel.sock");
const connections = new Set<Socket>();

let database: TestDatabase;
let core: JournalCore;
let server: http2.Http2Server;
beforeAll(async () => {
  database = await createTestDatabase();
  core = await createJournalCore(database);
  server = http2.createServer(connectNodeAdapter(core.served));
  server.on("connection", (socket: Socket) => {
    connections.add(socket);
    socket.on("close", () => connections.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
});
afterAll(async () => {
  cut();
  server.close();
  await database.drop();
  removeDirectory(directory);
});

/** False when nothing is open. */
function cut(): boolean {
  const found = connections.size > 0;
  for (const connection of connections) connection.destroy();
  return found;
}

async function openRunner() {
  const sessionId = await core.openSession();
  const channel = await openChannel(socketPath, await core.expectRunner(sessionId), path.join(directory, sessionId));
  const told: string[] = [];
  const tell = (count: number): void => {
    const texts = Array.from({ length: count }, (_, index) => `e${told.length + index + 1}`);
    told.push(...texts);
    channel.append(texts.map((value) => ({ case: "assistant", value: { content: { case: "text", value } } })));
  };
  const logged = async (): Promise<string[]> => {
    const session = await core.reader.session(core.ownerId, sessionId);
    const texts: string[] = [];
    for (let seq = 0; seq < session.last_seq; ) {
      const events = await core.reader.events(session, seq, 1_000);
      for (const { payload } of events) if (payload?.kind.case === "assistant") texts.push(payload.kind.value.content.value ?? "");
      seq = events.at(-1)?.seq ?? session.last_seq;
    }
    return texts;
  };
  return { channel, told, tell, logged };
}

test("a channel that is cut while it reports tells every event once and in order", async () => {
  const { channel, told, tell, logged } = await openRunner();
  let cuts = 0;
  for (let round = 0; round < 60; round += 1) {
    tell(1 + (round % 9));
    // At any place of a batch: before it is sent, while it is written, while its answer is on the way.
    await sleep(round % 5);
    if (round % 3 === 0 && cut()) cuts += 1;
    if (round % 7 === 0) await channel.flushed();
  }
  await channel.flushed();
  expect(cuts).toBeGreaterThan(5);
  expect(await logged()).toEqual(told);
  await channel.detach("done", 0);
});

test("a channel that is cut while it is quiet goes on with the next event", async () => {
  const { channel, told, tell, logged } = await openRunner();
  for (let round = 0; round < 5; round += 1) {
    tell(3);
    await channel.flushed();
    expect(cut()).toBe(true);
    await sleep(30);
  }
  expect(await logged()).toEqual(told);
  await channel.detach("done", 0);
});

test("more than one batch can hold is told in order", async () => {
  const { channel, told, tell, logged } = await openRunner();
  tell(1);
  tell(950);
  await channel.flushed();
  expect(await logged()).toEqual(told);
  await channel.detach("done", 0);
});
