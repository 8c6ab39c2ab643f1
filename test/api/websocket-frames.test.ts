import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { attach, createHarness, type Frame, type Harness, ofType, type Person, type Served, type TestClient } from "./websocket-harness.ts";

let harness: Harness;
let served: Served;
let owner: Person;

beforeAll(async () => {
  harness = await createHarness();
  served = await harness.serve();
  owner = await harness.person("owner@example.com");
});
afterAll(() => harness.close());

async function attached(sessionId: string): Promise<TestClient> {
  const client = attach(served, sessionId, owner);
  await client.next(ofType("session_status"));
  return client;
}

const system = (subtype: string) => (frame: Frame) => frame.type === "system" && frame.payload.subtype === subtype;
const commandsOf = (sessionId: string) => harness.db.selectFrom("command").select("id").where("session_id", "=", sessionId).execute();

describe("a prompt", () => {
  it("starts a turn that every client sees once, and the sender knows by its request_id", async () => {
    const sessionId = await harness.session(owner);
    const clients = [await attached(sessionId), await attached(sessionId)] as const;
    clients[0].send("prompt", { text: "hello", request_id: "r1" });
    for (const client of clients) {
      expect((await client.next(ofType("user"))).payload).toEqual({
        text: "hello",
        content: [{ type: "text", text: "hello" }],
        queued: false,
        request_id: "r1",
      });
      await client.next(system("turn_started"));
    }
    clients[0].send("prompt", { text: "hello", request_id: "r1" });
    clients[0].send("prompt", { text: "other", request_id: "r1" });
    expect((await clients[0].next(ofType("error"))).payload).toMatchObject({ code: "request_id_reused", request_id: "r1" });
    expect(await commandsOf(sessionId)).toHaveLength(1);
    for (const client of clients) {
      expect(client.frames.filter(ofType("user"))).toHaveLength(1);
      client.socket.terminate();
    }
  });

  it("behind another is queued, and only its sender is told the place", async () => {
    const sessionId = await harness.session(owner);
    const [sender, other] = [await attached(sessionId), await attached(sessionId)];
    for (const text of ["one", "two", "three"]) sender.send("prompt", { text });
    const queued = [await sender.next(system("prompt_queued")), await sender.next(system("prompt_queued"))];
    expect(queued.map(({ payload }) => payload.position)).toEqual([1, 2]);
    expect(queued.every(({ seq }) => seq === undefined)).toBe(true);
    await other.next((frame) => frame.payload.text === "three");
    const users = sender.frames.filter(ofType("user"));
    expect(users.map(({ payload }) => payload.queued)).toEqual([false, true, true]);
    expect(users.slice(1).map(({ seq }) => seq)).toEqual(queued.map(({ payload }) => payload.seq));
    expect(other.frames.some(system("prompt_queued"))).toBe(false);
    for (const { socket } of [sender, other]) socket.terminate();
  });

  it("to an ended session is refused while the connection lasts", async () => {
    const sessionId = await harness.session(owner);
    const client = await attached(sessionId);
    await harness.change(sessionId, (change) => change.set({ desired: "end", end_reason: "user_requested" }));
    client.send("prompt", { text: "too late", request_id: "r9" });
    expect((await client.next(ofType("error"))).payload).toMatchObject({ code: "session_not_running", request_id: "r9" });
    client.socket.terminate();
  });
});

describe("an interrupt", () => {
  it("is asked of the runner once a turn is under way, and is nothing before", async () => {
    const sessionId = await harness.session(owner);
    const client = await attached(sessionId);
    client.send("interrupt");
    client.send("prompt", { text: "work" });
    await client.next(system("turn_started"));
    client.send("interrupt", {});
    await expect.poll(async () => (await commandsOf(sessionId)).length).toBe(2);
    expect(client.frames.some(ofType("error"))).toBe(false);
    client.socket.terminate();
  });
});

describe("an approval and a question", () => {
  it("asked while nobody is there are answered by whoever comes, once", async () => {
    const sessionId = await harness.session(owner);
    await harness.askApproval(sessionId, "t1");
    await harness.askQuestion(sessionId, "q1");
    const [first, second] = [await attached(sessionId), await attached(sessionId)];
    const pending = first.frames[0]!.payload.messages!.map(({ type }) => type);
    expect(pending).toContain("tool_approval_request");
    expect(pending).toContain("ask_user_question");

    first.send("tool_approval_response", {
      tool_use_id: "t1",
      approved: true,
      approval_scope: "session",
      updated_input: { command: "ls -l" },
    });
    const resolved = await second.next(system("approval_resolved"));
    expect(resolved.payload).toMatchObject({
      tool_use_id: "t1",
      outcome: "approved",
      approval_scope: "session",
      approval_pattern: "Bash(ls:*)",
      answered_by: "owner@example.com",
      updated_input: { command: "ls -l" },
    });
    second.send("tool_approval_response", { tool_use_id: "t1", approved: false });
    expect((await second.next(ofType("error"))).payload).toMatchObject({ code: "already_answered", tool_use_id: "t1" });

    second.send("ask_user_question_response", { question_id: "q1", answers: { Size: "big" } });
    expect((await second.next(ofType("error"))).payload).toMatchObject({ code: "invalid_message", question_id: "q1" });
    second.send("ask_user_question_response", { question_id: "q1", answers: { Colour: "blue" } });
    expect((await first.next(system("question_resolved"))).payload).toMatchObject({ question_id: "q1", answers: { Colour: "blue" } });

    first.send("tool_approval_response", { tool_use_id: "t9", approved: true });
    expect((await first.next(ofType("error"))).payload).toMatchObject({ code: "not_found", tool_use_id: "t9" });
    for (const { socket } of [first, second]) socket.terminate();
  });
});

describe("a malformed frame", () => {
  const messages: [string, string | Buffer, boolean][] = [
    ["text that is not JSON", "{", false],
    ["an empty text", "", false],
    ["an empty binary message", Buffer.alloc(0), true],
    ["binary that is not UTF-8", Buffer.from([0xff, 0xfe]), true],
    ["an unknown type", '{"type":"shout"}', false],
    ["a wrong type inside", '{"type":"prompt","payload":{"text":7}}', false],
    ["a misspelt field", '{"type":"prompt","payload":{"text":"a","txt":"b"}}', false],
    ["a file frame, which this server does not know yet", '{"type":"upload_request","payload":{}}', false],
  ];
  it("is answered, one by one, and the connection stays", async () => {
    const sessionId = await harness.session(owner);
    const client = await attached(sessionId);
    for (const [name, data, binary] of messages) {
      client.socket.send(data, { binary });
      expect((await client.next()).payload.code, name).toBe("invalid_message");
    }
    client.socket.send(Buffer.from('{"type":"prompt","payload":{"text":"still here"}}'), { binary: true });
    expect((await client.next(ofType("user"))).payload.text).toBe("still here");
    expect(await harness.db.selectFrom("event").select("seq").where("session_id", "=", sessionId).execute()).toHaveLength(4);
    client.socket.terminate();
  });

  it("of text that is not UTF-8 is the protocol's own fault: 1007", async () => {
    const client = await attached(await harness.session(owner));
    client.socket.send(Buffer.from([0x7b, 0xff, 0x7d]), { binary: false });
    expect((await client.closed).code).toBe(1007);
  });
});
