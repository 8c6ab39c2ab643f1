/**
 * The hosted product's public Python client against Carrel: its calls, its frames and its fall-backs, written from what is
 * known of them (paths, fields and words), with nothing of ours in between.
 */
import { once } from "node:events";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import WebSocket from "ws";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, plantedKey, startApp } from "../support/carrel.ts";

let installation: Installation;
let app: App;
let token: string;

beforeAll(async () => {
  installation = await createInstallation({ CARREL_STANDBY_SANDBOXES: "0" });
  app = await startApp(installation);
  token = await installation.tokenFor("vendor@example.com");
});
afterAll(async () => {
  await app?.close();
  await installation?.remove();
});

type Json = Record<string, unknown>;
type Answer = { status: number; body: Json };

/** The client's request: a bearer token, JSON both ways, an empty body of no bytes. */
async function api(method: string, path: string, body?: Json, bearer = token): Promise<Answer> {
  const headers = { authorization: `Bearer ${bearer}`, "content-type": "application/json", "user-agent": "limacharlie-python" };
  const response = await fetch(app.url + path, { method, headers, body: method === "GET" ? null : body ? JSON.stringify(body) : "" });
  return { status: response.status, body: (await response.json()) as Json };
}

type Frame = { type: string; timestamp: string; session_id: string; payload: Json };

/** The client's attach: the owner's path with the token in a header, frames of up to 10 MiB, a heartbeat now and then. */
async function attach(sessionId: string) {
  const socket = new WebSocket(`${app.url.replace("http", "ws")}/v1/ws/sessions/${sessionId}`, {
    headers: { authorization: `Bearer ${token}` },
    maxPayload: 10 * 1024 * 1024,
  });
  const frames: Frame[] = [];
  socket.on("message", (data, isBinary) => {
    // It decodes binary frames as UTF-8 and skips what is not JSON; ours are text and always JSON.
    expect(isBinary).toBe(false);
    frames.push(JSON.parse(String(data)) as Frame);
  });
  const closed = once(socket, "close").then(([code]) => code as number);
  await once(socket, "open");
  const seen = (type: string, test: (payload: Json) => boolean = () => true) =>
    frames.filter((frame) => frame.type === type && test(frame.payload));
  const until = async (type: string, test?: (payload: Json) => boolean): Promise<Json> => {
    await expect.poll(() => seen(type, test).length, { timeout: 20_000, interval: 20 }).toBeGreaterThan(0);
    return seen(type, test)[0]!.payload;
  };
  const send = (type: string, payload?: Json) => socket.send(JSON.stringify(payload ? { type, payload } : { type }));
  return { socket, frames, closed, until, send };
}

/** `ai chat`: the status, the registration of every run, a session, and its attachment. */
async function chat(prompt: string, options: Json = {}) {
  expect((await api("GET", "/v1/auth/claude/status")).body).toMatchObject({ has_credentials: true, credential_type: "api_key" });
  expect((await api("POST", "/v1/register")).status).toBe(200);
  const created = await api("POST", "/v1/sessions", options);
  expect(created.status).toBe(201);
  const { id, status } = created.body["session"] as { id: string; status: string };
  expect(["starting", "running"]).toContain(status);
  await expect.poll(async () => statusOf(id), { timeout: 20_000 }).toBe("running");
  const client = await attach(id);
  expect((await client.until("history"))["complete"]).toBe(true);
  client.send("prompt", { text: prompt });
  return { id, ...client };
}

async function statusOf(id: string): Promise<unknown> {
  return ((await api("GET", `/v1/sessions/${id}`)).body["session"] as Json)["status"];
}

async function terminate(id: string): Promise<void> {
  expect(await api("DELETE", `/v1/sessions/${id}`)).toEqual({ status: 200, body: { terminated: true } });
}

describe("the client", () => {
  test("signs in, and signs in again: the same registration, no conflict", async () => {
    expect((await api("GET", "/v1/sessions")).body).toMatchObject({ error: "not_registered" });
    const first = await api("POST", "/v1/register");
    expect(first).toMatchObject({
      status: 200,
      body: { registered: true, registered_at: expect.stringMatching(/^\d{4}-.*(Z|\+00:00)$/) as string },
    });
    expect(await api("POST", "/v1/register")).toEqual(first);
    expect((await api("GET", "/v1/auth/claude/status")).body).toMatchObject({ has_credentials: false });
    expect(await api("POST", "/v1/sessions", {})).toMatchObject({ status: 403, body: { error: "no_credentials" } });
    expect((await api("POST", "/v1/auth/claude/apikey", { api_key: "not-a-key" })).status).toBe(400);
    expect(await api("POST", "/v1/auth/claude/apikey", { api_key: plantedKey })).toMatchObject({ status: 200, body: { success: true } });
    expect((await api("POST", "/v1/register", undefined, "nonsense")).status).toBe(401);
  });

  test("chats: prompt, answer, tool, approval, question, interrupt, end", { timeout: 60_000 }, async () => {
    const { id, until, send, frames, closed } = await chat('[[text One moment.]] [[tool Bash {"command":"touch made; echo made-it"}]]', {
      name: "from Python",
      idempotent_key: "run-1",
      model: "claude-fable-1",
      max_turns: 20,
      max_budget_usd: 5,
      one_shot: false,
      permission_mode: "acceptEdits",
      allowed_tools: ["Read"],
      denied_tools: ["WebFetch"],
      // What the client sends although Carrel has no such thing, as long as it says nothing.
      plugins: [],
      provider: "anthropic",
      task_budget_tokens: null,
      lc_credentials: null,
    });
    const user = await until("user");
    expect([user["text"], user["content"]]).toEqual([expect.stringContaining("One moment"), [{ type: "text", text: user["text"] }]]);
    expect(await until("assistant", ({ content }) => JSON.stringify(content).includes("One moment"))).toMatchObject({
      content: [{ type: "text" }],
      model: expect.any(String) as string,
    });
    const call = await until("tool_use");
    expect(call).toMatchObject({ id: expect.any(String) as string, name: "Bash", input: { command: expect.any(String) as string } });
    const asked = await until("tool_approval_request");
    expect(asked).toMatchObject({ tool_use_id: call["id"], tool_name: "Bash", tool_input: call["input"] });
    send("heartbeat");
    send("tool_approval_response", { tool_use_id: asked["tool_use_id"], approved: true, approval_scope: "once" });
    expect(await until("tool_result")).toMatchObject({ tool_use_id: call["id"], content: expect.anything() as unknown });
    expect(await until("result")).toMatchObject({ success: true, subtype: "success", summary: expect.any(String) as string });
    expect((await until("usage_delta"))["input_tokens"]).toEqual(expect.any(Number));
    expect(await until("sdk_session_id")).toBeTypeOf("object");

    send("prompt", { text: '[[tool Bash {"command":"touch refused"}]]' });
    const second = await until("tool_approval_request", ({ tool_use_id }) => tool_use_id !== asked["tool_use_id"]);
    send("tool_approval_response", { tool_use_id: second["tool_use_id"], approved: false, message: "denied by CLI user" });
    expect(JSON.stringify(await until("tool_result", ({ tool_use_id }) => tool_use_id === second["tool_use_id"]))).toContain(
      "denied by CLI user",
    );

    send("prompt", { text: "[[ask Which colour? | Vermilion | Teal]]" });
    const question = await until("ask_user_question");
    const [item] = question["questions"] as { question: string; header: string; options: { label: string }[] }[];
    expect(item?.options.map(({ label }) => label)).toEqual(["Vermilion", "Teal"]);
    // By its header, else by its text.
    send("ask_user_question_response", { question_id: question["question_id"], answers: { [item!.header || item!.question]: "Teal" } });
    await until("tool_result", (payload) => JSON.stringify(payload).includes("Teal"));

    send("prompt", { text: "[[slow 400 tokens 50ms]]" });
    await until("system", ({ subtype, prompt_seq }) => subtype === "turn_started" && Number(prompt_seq) > 0);
    await expect
      .poll(() => frames.filter(({ type, payload }) => type === "system" && payload["subtype"] === "turn_started").length)
      .toBe(4);
    send("interrupt");
    await until("result", ({ subtype }) => subtype === "interrupted");

    expect((await api("POST", "/v1/sessions", { name: "from Python", idempotent_key: "run-1" })).status, "other content").toBe(409);
    await terminate(id);
    expect(await closed).toBe(4100);
    expect(frames.at(-1)).toMatchObject({ type: "session_end", session_id: id, payload: { reason: "user_requested" } });
    expect(frames.every(({ timestamp }) => !Number.isNaN(Date.parse(timestamp)))).toBe(true);
    const known =
      "assistant tool_use tool_result user system result session_status session_end session_error error " +
      "tool_approval_request ask_user_question history usage_delta sdk_session_id";
    expect(frames.map(({ type }) => type).filter((type) => !known.split(" ").includes(type))).toEqual([]);

    const history = await api("GET", `/v1/sessions/${id}/history`);
    const messages = history.body["messages"] as Frame[];
    expect(messages.map(({ type }) => type)).toEqual(
      expect.arrayContaining(["user", "assistant", "tool_use", "tool_result", "result", "session_end"]),
    );
    expect(messages[0]).toMatchObject({
      type: expect.any(String) as string,
      timestamp: expect.any(String) as string,
      payload: expect.anything() as unknown,
    });
  });

  test("lists all pages, gets one, and ends each", { timeout: 30_000 }, async () => {
    const made: string[] = [];
    for (let index = 0; index < 3; index++) {
      const { body } = await api("POST", "/v1/sessions", { name: `page ${index}`, initial_prompt: "" });
      made.push((body["session"] as { id: string }).id);
    }
    const listed: string[] = [];
    let cursor = "";
    do {
      const { body } = await api("GET", `/v1/sessions?limit=2${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
      listed.push(...(body["sessions"] as { id: string }[]).map(({ id }) => id));
      cursor = (body["next_cursor"] as string | null | undefined) ?? "";
    } while (cursor !== "");
    expect(listed.slice(0, 3)).toEqual(made.toReversed());
    expect((await api("GET", "/v1/sessions?status=terminated")).status, "the old word").toBe(200);
    for (const id of made) await terminate(id);
    await expect.poll(async () => Promise.all(made.map(statusOf)), { timeout: 20_000 }).toEqual(["ended", "ended", "ended"]);
    expect(await api("DELETE", `/v1/sessions/${made[0]}/record`)).toEqual({ status: 200, body: { deleted: true } });
    expect((await api("GET", `/v1/sessions/${made[0]}`)).status).toBe(404);
  });

  test("is told at the upgrade that a session is not its own, and falls back to the read-only path, which says so too", async () => {
    await api("POST", "/v1/register", undefined, await installation.tokenFor("other@example.com"));
    const { body } = await api("POST", "/v1/sessions", {});
    const { id } = body["session"] as { id: string };
    const other = await installation.tokenFor("other@example.com");
    const statuses: unknown[] = [];
    for (const path of [`/v1/ws/sessions/${id}`, `/v1/ws/org/sessions/${id}`, `/v1/org/sessions/${id}/ws`]) {
      const socket = new WebSocket(app.url.replace("http", "ws") + path, { headers: { authorization: `Bearer ${other}` } });
      socket.on("error", () => undefined);
      const [, response] = (await once(socket, "unexpected-response")) as [unknown, { statusCode: number }];
      statuses.push(response.statusCode);
    }
    expect(statuses).toEqual([404, 404, 404]);
    await terminate(id);
  });

  test.each<[string, Json]>([
    ["provider", { provider: "openai" }],
    ["plugins", { plugins: ["lc-essentials"] }],
    ["task_budget_tokens", { task_budget_tokens: 1000 }],
    ["lc_credentials", { lc_credentials: { type: "org_api_key", org_api_key: "x" } }],
  ])("is told by name that %s is not had here", async (field, body) => {
    const answer = await api("POST", "/v1/sessions", body);
    expect(answer).toMatchObject({ status: 400, body: { error: "unsupported_field", details: { fields: field } } });
  });

  test("removes its key", async () => {
    expect(await api("DELETE", "/v1/auth/claude")).toMatchObject({ status: 200, body: { success: true } });
    expect((await api("GET", "/v1/auth/claude/status")).body["has_credentials"]).toBe(false);
  });
});
