import { connect } from "node:net";
import { expect, test } from "vitest";
import { apiKey, bodyWith, headers, oauthToken, post, startModel } from "./support.ts";

const user = { role: "user", content: "hi" };
const call = { role: "assistant", content: [{ type: "tool_use", id: "toolu_1", name: "Bash", input: {} }] };
const result = (id: string) => ({ role: "user", content: [{ type: "tool_result", tool_use_id: id, content: "ok" }] });
const tool = { name: "Bash", input_schema: { type: "object" } };
const breakpoint = { type: "text", text: "x", cache_control: { type: "ephemeral" } };

const refused: [string, Record<string, unknown>, RegExp][] = [
  ["no model", { model: undefined }, /model: Field required/],
  ["a model that is no string", { model: 1 }, /model/],
  ["no max_tokens", { max_tokens: undefined }, /max_tokens: Field required/],
  ["max_tokens of zero", { max_tokens: 0 }, /max_tokens/],
  ["no messages", { messages: undefined }, /messages: Field required/],
  ["empty messages", { messages: [] }, /at least one message/],
  ["an unknown field", { phantom: 1 }, /phantom: Extra inputs/],
  ["a first message of the assistant", { messages: [{ role: "assistant", content: "x" }] }, /first message must use the "user" role/],
  ["a first message of the system", { messages: [{ role: "system", content: "x" }, user] }, /first message/],
  ["an unknown role", { messages: [{ role: "tool", content: "x" }] }, /Unexpected role "tool"/],
  ["a message without content", { messages: [{ role: "user" }] }, /messages.0.content: Field required/],
  ["an empty message", { messages: [{ role: "user", content: [] }] }, /non-empty content/],
  ["an empty text", { messages: [{ role: "user", content: [{ type: "text", text: "" }] }] }, /non-empty/],
  ["an unknown block", { messages: [{ role: "user", content: [{ type: "video" }] }] }, /Input tag 'video'/],
  ["a tool call by the user", { messages: [{ role: "user", content: call.content }] }, /Input tag 'tool_use'/],
  [
    "an unsigned thinking block",
    { messages: [user, { role: "assistant", content: [{ type: "thinking", thinking: "a", signature: "b" }] }, user] },
    /Invalid `signature`/,
  ],
  ["a result without its call", { messages: [result("toolu_1")] }, /unexpected `tool_use_id`/],
  ["a result of another call", { messages: [user, call, result("toolu_2")] }, /unexpected `tool_use_id`/],
  ["a call without its result", { messages: [user, call, user] }, /`tool_use` ids were found without `tool_result`/],
  [
    "a result behind text",
    { messages: [user, call, { role: "user", content: [{ type: "text", text: "x" }, ...result("toolu_1").content] }] },
    /immediately after/,
  ],
  [
    "two results of one call",
    { messages: [user, call, { role: "user", content: [...result("toolu_1").content, ...result("toolu_1").content] }] },
    /single result/,
  ],
  ["the same call twice", { messages: [user, call, result("toolu_1"), call, result("toolu_1")] }, /must be unique/],
  ["a conversation that ends with the assistant", { messages: [user, { role: "assistant", content: "x" }] }, /prefill/],
  ["two tools of one name", { tools: [tool, tool] }, /Tool names must be unique/],
  ["a tool without a schema", { tools: [{ name: "Bash" }] }, /input_schema/],
  ["a tool with a strange name", { tools: [{ ...tool, name: "a b" }] }, /pattern/],
  ["a choice of a missing tool", { tools: [tool], tool_choice: { type: "tool", name: "Read" } }, /not found in provided tools/],
  ["more than four cache breakpoints", { messages: [{ role: "user", content: Array(5).fill(breakpoint) }] }, /maximum of 4/],
  ["a thinking budget beyond max_tokens", { thinking: { type: "enabled", budget_tokens: 2000 } }, /budget_tokens/],
];

test.each(refused)("a request with %s is refused with 400 and the provider's error body", async (_what, fields, words) => {
  const model = await startModel();
  const response = await post(model, bodyWith(fields));
  expect(response.status).toBe(400);
  expect(response.headers.get("request-id")).toMatch(/^req_/);
  expect(await response.json()).toEqual({
    type: "error",
    error: { type: "invalid_request_error", message: expect.stringMatching(words) },
    request_id: response.headers.get("request-id"),
  });
});

test.each<[string, Record<string, string>, number, string]>([
  ["no key", { "x-api-key": "" }, 401, "authentication_error"],
  ["a wrong key", { "x-api-key": "sk-ant-wrong" }, 401, "authentication_error"],
  ["a wrong bearer", { "x-api-key": "-", authorization: "Bearer phantom" }, 401, "authentication_error"],
  ["an OAuth token without its beta", { "x-api-key": "-", authorization: `Bearer ${oauthToken}` }, 401, "authentication_error"],
  ["no version", { "anthropic-version": "-" }, 400, "invalid_request_error"],
  ["an unknown version", { "anthropic-version": "2030-01-01" }, 400, "invalid_request_error"],
])("a request with %s is refused", async (_what, changed, status, type) => {
  const model = await startModel();
  // "-" stands for a header that is not sent.
  const sent = Object.fromEntries(Object.entries({ ...headers, ...changed }).filter(([, value]) => value !== "-"));
  const response = await post(model, bodyWith(), { headers: sent });
  expect(response.status).toBe(status);
  expect(await response.json()).toMatchObject({ type: "error", error: { type } });
});

test.each([
  [
    "an OAuth token with its beta name",
    { authorization: `Bearer ${oauthToken}`, "anthropic-beta": "claude-code-20250219,oauth-2025-04-20" },
  ],
  ["an API key as bearer", { authorization: `Bearer ${apiKey}` }],
])("%s is accepted", async (_what, sent) => {
  const model = await startModel();
  const { "x-api-key": _key, ...rest } = headers;
  expect((await post(model, bodyWith(), { headers: { ...rest, ...sent } })).status).toBe(200);
});

test.each([
  ["GET", "/v1/messages", 405, "invalid_request_error"],
  ["POST", "/v1/models", 404, "not_found_error"],
  ["HEAD", "/api/hello", 404, "not_found_error"],
  ["POST", "/v1/messages/batches", 404, "not_found_error"],
])("%s %s is refused with %i", async (method, path, status, type) => {
  const model = await startModel();
  const response = await fetch(model.url + path, { method, headers, ...(method === "POST" && { body: "{}" }) });
  expect(response.status).toBe(status);
  if (method !== "HEAD") expect(await response.json()).toMatchObject({ error: { type } });
});

test("a temperature is refused in the API version that has none", async () => {
  const model = await startModel();
  const statuses = ["2023-06-01", "2026-10-21"].map(async (version) => {
    const response = await post(model, bodyWith({ temperature: 1 }), { headers: { ...headers, "anthropic-version": version } });
    return response.status;
  });
  expect(await Promise.all(statuses)).toEqual([200, 400]);
});

test("an unknown model is not found", async () => {
  const model = await startModel();
  const response = await post(model, bodyWith({ model: "gpt-5" }));
  expect(response.status).toBe(404);
  expect(await response.json()).toMatchObject({ error: { type: "not_found_error", message: "model: gpt-5" } });
});

test.each(["{", "", "[]", '"x"', new Uint8Array([0x22, 0xff, 0x22])])("a body that is no JSON object is refused", async (body) => {
  const model = await startModel();
  const response = await post(model, body);
  expect(response.status).toBe(400);
  expect(model.requests()).toHaveLength(1);
});

test("a body over 32 MiB is refused as too large, announced or not", async () => {
  const model = await startModel();
  const sent = ["POST /v1/messages HTTP/1.1", "host: x", `content-length: ${33 * 1024 * 1024}`, "", ""].join("\r\n");
  const announced = await new Promise<string>((resolve, reject) => {
    const socket = connect(model.port, "127.0.0.1", () => socket.write(sent));
    socket.once("data", (data) => {
      socket.destroy();
      resolve(String(data));
    });
    socket.once("error", reject);
  });
  expect(announced).toMatch(/^HTTP\/1.1 413/);
  const chunk = new Uint8Array(1024 * 1024).fill(32);
  let left = 33;
  const body = new ReadableStream({ pull: (controller) => (left-- > 0 ? controller.enqueue(chunk) : controller.close()) });
  const response = await fetch(`${model.url}/v1/messages`, { method: "POST", headers, body, duplex: "half" } as RequestInit);
  expect(response.status).toBe(413);
  expect(await response.json()).toMatchObject({ error: { type: "request_too_large" } });
});

test("what the real agent sends is accepted: system messages between turns, empty ones with a setting", async () => {
  const model = await startModel();
  const messages = [
    user,
    { role: "system", content: [], output_config: { effort: "medium" } },
    call,
    result("toolu_1"),
    { role: "system", content: "The date is known.", output_config: { effort: "medium" } },
  ];
  const response = await post(model, bodyWith({ messages, thinking: { type: "adaptive", display: "updates" } }));
  expect(response.status).toBe(200);
});

test("token counting answers a count and refuses max_tokens", async () => {
  const model = await startModel();
  const { max_tokens: _most, ...body } = bodyWith();
  const path = "/v1/messages/count_tokens?beta=true";
  const counted = await post(model, body, { path });
  expect(await counted.json()).toEqual({ input_tokens: expect.any(Number) });
  expect((await post(model, bodyWith(), { path })).status).toBe(400);
});
