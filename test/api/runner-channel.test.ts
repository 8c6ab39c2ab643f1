/** The runner's channel on the real service, over a socket that is cut as a server's end cuts it. */
import http2 from "node:http2";
import type { Socket } from "node:net";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Deadlines, openChannel } from "../../runner/channel.ts";
import { createJournalCore, type JournalCore } from "../support/journal-core.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";

const directory = makeTemporaryDirectory("channel");
const socketPath = path.join(directory, "carrel.sock");
const connections = new Set<Socket>();
/** Methods of which the next call is not answered. */
const swallowed = new Set<string>();

let database: TestDatabase;
let core: JournalCore;
let server: http2.Http2Server;
beforeAll(async () => {
  database = await createTestDatabase();
  core = await createJournalCore(database);
  const served = connectNodeAdapter(core.served);
  server = http2.createServer((request, response) => {
    if (!swallowed.delete(request.url.split("/").at(-1)!)) return served(request, response);
    // As one of a server that is going ends: without an answer, and without a word why.
    request.stream.close(http2.constants.NGHTTP2_NO_ERROR);
  });
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

async function openRunner(deadlines?: Deadlines) {
  const sessionId = await core.openSession();
  const channel = await openChannel(socketPath, await core.expectRunner(sessionId), path.join(directory, sessionId), deadlines);
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
  return { sessionId, channel, told, tell, logged };
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

test("calls whose stream ends without an answer are made again", async () => {
  const { sessionId, channel } = await openRunner({ answerMs: 300, quietMs: 300 });
  for (const method of ["DecideTool", "SyncMemory", "WatchCommands", "Detach"]) swallowed.add(method);
  const call = { toolUseId: "toolu_1", toolName: "Bash", turn: 0, parentToolUseId: "", input: { command: "ls" } };
  expect(await channel.decide(call)).toMatchObject({ pending: true });
  expect((await channel.syncMemory([])).refused).toEqual([]);
  const prompted = Promise.withResolvers<string>();
  const following = channel.follow(({ kind }) => void (kind.case === "prompt" && prompted.resolve(kind.value.text)));
  following.catch(prompted.reject);
  await core.prompt(sessionId, "heard all the same");
  expect(await prompted.promise).toBe("heard all the same");
  await channel.detach("done", 0);
  expect([core.detached.at(-1), [...swallowed]]).toEqual([sessionId, []]);
  await core.expectRunner(sessionId);
  cut();
  await expect(following).rejects.toThrow("the lease is gone");
});
