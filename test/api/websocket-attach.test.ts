import { randomInt } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import WebSocket from "ws";
import { FrameSchema } from "../../gen/carrel/v1/event_pb.ts";
import { frameOf } from "../../server/channel/frames.ts";
import { createMessageWriters } from "../../server/http/rest/writer.ts";
import {
  attach,
  clientOf,
  createHarness,
  eventsOf,
  type Frame,
  type Harness,
  ofType,
  type Person,
  type Served,
} from "./websocket-harness.ts";

let harness: Harness;
let served: Served;
let owner: Person;

beforeAll(async () => {
  harness = await createHarness();
  served = await harness.serve();
  owner = await harness.person("owner@example.com");
});
afterAll(() => harness.close());

/** The log as it must look to a client. */
async function logOf(sessionId: string): Promise<Frame[]> {
  const write = createMessageWriters()(FrameSchema);
  const session = await harness.reader.session(owner.userId, sessionId);
  const log: Frame[] = [];
  while (log.length < session.last_seq) {
    const events = await harness.reader.events(session, log.length, 200);
    log.push(...events.map((event) => write(frameOf(sessionId, event)!) as unknown as Frame));
  }
  return log;
}

describe("an attach", () => {
  it.each(["/v1/sessions/ID/ws", "/v1/ws/sessions/ID"])("on %s gives the history, the status, and then what happens", async (path) => {
    const sessionId = await harness.session(owner);
    await harness.append(sessionId, "one", "two");
    const client = clientOf(
      new WebSocket(`${served.url}${path.replace("ID", sessionId)}`, { headers: { authorization: `Bearer ${owner.token}` } }),
    );
    const history = await client.next();
    expect(history).toMatchObject({ type: "history", session_id: sessionId, payload: { complete: true } });
    expect(history.payload.messages).toEqual(await logOf(sessionId));
    expect(await client.next()).toMatchObject({
      type: "session_status",
      payload: { status: "running", user_state: "waiting", detail: "idle" },
    });
    await harness.append(sessionId, "three");
    const live = await client.next();
    expect(live).toEqual((await logOf(sessionId)).at(-1));
    expect(client.frames.every((frame) => frame.seq !== 0)).toBe(true);
    client.socket.terminate();
  });

  it("by Node's own client with the token in the URL works the same, and the token is in no log", async () => {
    const sessionId = await harness.session(owner);
    const socket = new globalThis.WebSocket(`${served.url}/v1/sessions/${sessionId}/ws?token=${owner.token}`);
    const types: string[] = [];
    socket.onmessage = ({ data }) => types.push((JSON.parse(String(data)) as Frame).type);
    await expect.poll(() => types).toEqual(["history", "session_status"]);
    const closed = new Promise((resolve) => {
      socket.onclose = resolve;
    });
    socket.close(1000);
    expect(await closed).toMatchObject({ code: 1000 });
    await expect.poll(() => harness.lines.some((line) => line.includes("socket closed") && line.includes(sessionId))).toBe(true);
    expect(harness.lines.join("\n")).not.toContain(owner.token.split(".")[2]);
  });

  it("of a session that has not started is taken and says so", async () => {
    const sessionId = await harness.session(owner);
    await harness.change(sessionId, (change) => change.set({ state: "requested", started_at: null }));
    const client = attach(served, sessionId, owner);
    expect((await client.next(ofType("session_status"))).payload).toEqual({
      status: "starting",
      user_state: "running",
      detail: "provisioning",
    });
    client.socket.terminate();
  });

  it("of an ended session gives the history, the end once and last, and closes with 4100", async () => {
    const sessionId = await harness.session(owner);
    await harness.append(sessionId, "one");
    await harness.end(sessionId);
    const client = attach(served, sessionId, owner);
    expect(await client.closed).toEqual({ code: 4100, reason: "the session has ended" });
    expect(client.frames.map(({ type }) => type)).toEqual(["history", "session_status", "session_end"]);
    expect(client.frames[1]?.payload.status).toBe("ended");
    expect(eventsOf(client.frames)).toEqual(await logOf(sessionId));

    const resumed = attach(served, sessionId, owner, "?after_seq=1");
    expect((await resumed.closed).code).toBe(4100);
    expect(resumed.frames).toEqual((await logOf(sessionId)).slice(1));
  });

  it("sees the end of the session as the last frame before 4100", async () => {
    const sessionId = await harness.session(owner);
    const client = attach(served, sessionId, owner);
    await client.next(ofType("session_status"));
    await harness.end(sessionId);
    expect((await client.closed).code).toBe(4100);
    expect(client.frames.at(-1)).toMatchObject({ type: "session_end", payload: { reason: "user_requested" } });
  });

  it("pages a long history by bytes, whole and in order", async () => {
    const small = await harness.serve({ historyFrameBytes: 20_000 });
    const sessionId = await harness.session(owner);
    for (let batch = 0; batch < 10; batch++)
      await harness.append(sessionId, ...Array.from({ length: 50 }, (_, index) => `${batch}/${index} ${"x".repeat(randomInt(900))}`));
    const client = attach(small, sessionId, owner);
    await client.next(ofType("session_status"));
    const pages = client.frames.filter(ofType("history"));
    expect(pages.length).toBeGreaterThan(10);
    expect(pages.map(({ payload }) => payload.complete)).toEqual(pages.map((_, index) => index === pages.length - 1));
    for (const page of pages) expect(Buffer.byteLength(JSON.stringify(page))).toBeLessThanOrEqual(20_000);
    expect(eventsOf(pages)).toEqual(await logOf(sessionId));
    client.socket.terminate();
  });

  it("with after_seq gives exactly what comes after, without a history", async () => {
    const sessionId = await harness.session(owner);
    await harness.append(sessionId, "one", "two", "three");
    const client = attach(served, sessionId, owner, "?after_seq=2");
    await client.next();
    await client.next();
    await harness.append(sessionId, "four");
    await client.next();
    expect(client.frames).toEqual((await logOf(sessionId)).slice(2));
    const last = attach(served, sessionId, owner, `?after_seq=${client.frames.at(-1)?.seq}`);
    await new Promise((resolve) => last.socket.once("open", resolve));
    await harness.append(sessionId, "five");
    expect((await last.next()).seq).toBe(client.frames[2]!.seq! + 1);
    for (const { socket } of [client, last]) socket.terminate();
  });

  it("gets deltas only when it asks", async () => {
    const sessionId = await harness.session(owner);
    const silent = attach(served, sessionId, owner);
    const talkative = attach(served, sessionId, owner, "?include_deltas=true");
    for (const client of [silent, talkative]) await client.next(ofType("session_status"));
    harness.feeds.pushDeltas(sessionId, [
      { $typeName: "carrel.v1.Delta", blockId: "b", kind: 1, text: "He", offset: 0, parentToolUseId: "" },
    ]);
    expect(await talkative.next()).toMatchObject({ type: "delta", payload: { block_id: "b", kind: "text", text: "He", offset: 0 } });
    await harness.append(sessionId, "Hello");
    for (const client of [silent, talkative]) await client.next(ofType("assistant"));
    expect(silent.frames.some(ofType("delta"))).toBe(false);
    for (const { socket } of [silent, talkative]) socket.terminate();
  });
});

describe("a refused attach", () => {
  const absent = `ses_${"0".repeat(32)}`;
  let own: string;
  let foreign: string;
  let unregistered: string;
  beforeAll(async () => {
    own = await harness.session(owner);
    foreign = await harness.session(await harness.person("other@example.com"));
    unregistered = await harness.tokenFor("nobody@example.com");
  });

  type Case = { name: string; id: () => string; token: () => string; query?: string; status: number; code: number; word: string };
  const cases: Case[] = [
    { name: "with a token that is none", id: () => own, token: () => "nonsense", status: 401, code: 4001, word: "unauthenticated" },
    {
      name: "with a token of another key",
      id: () => own,
      token: () => `${owner.token.slice(0, -8)}AAAAAAAA`,
      status: 401,
      code: 4001,
      word: "unauthenticated",
    },
    { name: "by somebody without an account", id: () => own, token: () => unregistered, status: 403, code: 4003, word: "not_registered" },
    {
      name: "to a session that is not there",
      id: () => absent,
      token: () => owner.token,
      status: 404,
      code: 4004,
      word: "session_not_found",
    },
    { name: "to somebody else's session", id: () => foreign, token: () => owner.token, status: 404, code: 4004, word: "session_not_found" },
    { name: "to what is no session id", id: () => "ses_1", token: () => owner.token, status: 404, code: 4004, word: "session_not_found" },
    {
      name: "from a cursor that is no number",
      id: () => own,
      token: () => owner.token,
      query: "after_seq=-1",
      status: 400,
      code: 1008,
      word: "invalid_message",
    },
    {
      name: "from a cursor beyond int32",
      id: () => own,
      token: () => owner.token,
      query: "after_seq=2147483648",
      status: 400,
      code: 1008,
      word: "invalid_message",
    },
    {
      name: "from a cursor beyond the log",
      id: () => own,
      token: () => owner.token,
      query: "after_seq=1000",
      status: 400,
      code: 1008,
      word: "invalid_cursor",
    },
    {
      name: "with a strange wish for deltas",
      id: () => own,
      token: () => owner.token,
      query: "include_deltas=maybe",
      status: 400,
      code: 1008,
      word: "invalid_message",
    },
  ];
  it.each(cases)(
    "$name is answered by status $status, and in the URL by close $code",
    async ({ id, token, query = "", status, code, word }) => {
      const path = `${served.url}/v1/sessions/${id()}/ws`;
      const withHeader = new WebSocket(`${path}?${query}`, { headers: { authorization: `Bearer ${token()}` } });
      expect(await statusOf(withHeader)).toBe(status);
      const inUrl = clientOf(new WebSocket(`${path}?token=${token()}&${query}`));
      expect((await inUrl.closed).code).toBe(code);
      expect(inUrl.frames.map(({ type, payload }) => [type, payload.code])).toEqual([["error", word]]);
    },
  );

  it("says the same of what is not there and of what is not yours", async () => {
    const answers = await Promise.all(
      [absent, foreign].map((id) =>
        bodyOf(new WebSocket(`${served.url}/v1/sessions/${id}/ws`, { headers: { authorization: `Bearer ${owner.token}` } })),
      ),
    );
    expect(answers[0]).toBe(answers[1]);
  });

  it("without any token is 401, and with an empty one in the URL 4001", async () => {
    expect(await statusOf(new WebSocket(`${served.url}/v1/sessions/${own}/ws`))).toBe(401);
    expect((await clientOf(new WebSocket(`${served.url}/v1/sessions/${own}/ws?token=`)).closed).code).toBe(4001);
    expect((await clientOf(new WebSocket(`${served.url}/v1/sessions/${own}/ws?token=%0d%0ax`)).closed).code).toBe(4001);
  });
});

function bodyOf(socket: WebSocket): Promise<string> {
  return new Promise((resolve, reject) => {
    socket.on("error", () => undefined);
    socket.on("open", () => reject(new Error("was taken")));
    socket.on("unexpected-response", (_request, response) => {
      let body = "";
      response.on("data", (chunk) => (body += String(chunk)));
      response.on("end", () => resolve(`${response.statusCode} ${body}`));
    });
  });
}

async function statusOf(socket: WebSocket): Promise<number> {
  return Number((await bodyOf(socket)).slice(0, 3));
}

describe("a client that is cut", () => {
  it("500 times at random while events are appended reads each once, in order, as the log has it", async () => {
    const sessionId = await harness.session(owner);
    const received: Frame[] = [];
    let appending = true;
    const appender = (async () => {
      for (let index = 0; appending; index++) {
        await harness.append(
          sessionId,
          ...Array.from({ length: randomInt(1, 4) }, (_, part) => `${index}.${part} ${"x".repeat(randomInt(2_000))}`),
        );
        if (index % 7 === 0) await new Promise((resolve) => setTimeout(resolve, randomInt(5)));
      }
    })();
    let fruitful = 0;
    for (let cut = 0; cut < 500; cut++) {
      const last = received.at(-1)?.seq;
      const client = attach(served, sessionId, owner, last === undefined ? "" : `?after_seq=${last}`);
      await new Promise((resolve) => setTimeout(resolve, randomInt(25)));
      client.socket.terminate();
      // A history counts only whole, and a frame that arrived counts.
      const events = eventsOf(client.frames.splice(0));
      received.push(...events);
      if (events.length > 0) fruitful += 1;
    }
    appending = false;
    await appender;
    const log = await logOf(sessionId);
    const rest = attach(served, sessionId, owner, `?after_seq=${received.at(-1)?.seq ?? 0}`);
    while ((received.at(-1)?.seq ?? 0) + eventsOf(rest.frames).length < log.length) await rest.next();
    rest.socket.terminate();
    received.push(...eventsOf(rest.frames));
    expect(received.map(({ seq }) => seq)).toEqual(log.map(({ seq }) => seq));
    expect(received).toEqual(log);
    expect(fruitful).toBeGreaterThan(100);
    await expect.poll(() => harness.feeds.size, { timeout: 15_000 }).toBe(0);
  });
});
