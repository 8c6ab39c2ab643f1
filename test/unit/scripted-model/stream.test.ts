import Anthropic from "@anthropic-ai/sdk";
import { expect, test } from "vitest";
import { apiKey, bodyWith, parseEvents, post, saying, startModel, textOf } from "./support.ts";

const prompt = '[[think I ponder.]][[text Hello there]][[tool Bash {"command":"ls -la /some/where/long"}]]';
const thinking = { type: "adaptive" };

test("a stream follows the provider's grammar, block by block", async () => {
  const model = await startModel();
  const response = await post(model, saying(prompt, { stream: true, thinking }));
  expect(response.headers.get("content-type")).toContain("text/event-stream");
  const events = parseEvents(await response.text());
  const shape = events.map(({ type, delta, content_block: block }) =>
    [type, (block as { type?: string })?.type ?? (delta as { type?: string })?.type].filter(Boolean).join(":"),
  );
  expect(shape.filter((item, index) => item !== shape[index - 1])).toEqual([
    "message_start",
    "content_block_start:thinking",
    "ping",
    "content_block_delta:thinking_delta",
    "content_block_delta:signature_delta",
    "content_block_stop",
    "content_block_start:text",
    "content_block_delta:text_delta",
    "content_block_stop",
    "content_block_start:tool_use",
    "content_block_delta:input_json_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
  ]);
  expect(events.filter(({ type }) => type === "content_block_start").map(({ index }) => index)).toEqual([0, 1, 2]);
  expect(events[0]).toMatchObject({ message: { role: "assistant", content: [], stop_reason: null, usage: { output_tokens: 1 } } });
  expect(events.at(-2)).toMatchObject({ delta: { stop_reason: "tool_use" }, usage: { output_tokens: expect.any(Number) } });
});

test("the provider's own client reads the same message from a stream and from a whole answer", async () => {
  const model = await startModel();
  const client = new Anthropic({ apiKey, baseURL: model.url });
  const ask = {
    model: "claude-opus-5-5",
    max_tokens: 500,
    thinking: { type: "adaptive" as const },
    messages: [{ role: "user" as const, content: prompt }],
  };
  const streamed = await client.messages.stream(ask).finalMessage();
  const whole = await client.messages.create(ask);
  const plain = (message: Anthropic.Message) => message.content.map((block) => ("id" in block ? { ...block, id: "" } : block));
  expect(plain(streamed)).toEqual(plain(whole));
  expect(streamed.usage.output_tokens).toBe(whole.usage.output_tokens);
  expect(streamed.stop_reason).toBe("tool_use");
  expect(whole.content[2]).toMatchObject({ type: "tool_use", input: { command: "ls -la /some/where/long" } });
});

test("thinking is left out unless the request allows it, and hidden where its display is omitted", async () => {
  const model = await startModel();
  const content = async (fields: object) =>
    ((await (await post(model, saying("[[think deep]][[text said]]", { ...fields }))).json()) as { content: unknown }).content;
  expect(await content({})).toEqual([{ type: "text", text: "said" }]);
  expect(await content({ thinking: { type: "adaptive", display: "omitted" } })).toMatchObject([{ type: "thinking", thinking: "" }, {}]);
});

test("thinking that comes back as it was sent is accepted", async () => {
  const model = await startModel();
  const first = (await (await post(model, saying("[[think deep]][[text said]]", { thinking }))).json()) as { content: unknown };
  const user = { role: "user", content: "go on" };
  const response = await post(model, bodyWith({ messages: [user, { role: "assistant", content: first.content }, user] }));
  expect(response.status).toBe(200);
});

test("usage counts cache reads and writes, and a script can set it", async () => {
  const model = await startModel();
  const system = [{ type: "text", text: "long ".repeat(400), cache_control: { type: "ephemeral" } }];
  const usageOf = async (body: unknown) => ((await (await post(model, body)).json()) as { usage: object }).usage;
  expect(await usageOf(bodyWith({ system }))).toMatchObject({
    cache_read_input_tokens: 0,
    cache_creation_input_tokens: expect.any(Number),
  });
  const later = [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
    { role: "user", content: "c" },
  ];
  const read = (await usageOf(bodyWith({ system, messages: later }))) as { cache_read_input_tokens: number };
  expect(read.cache_read_input_tokens).toBeGreaterThan(400);
  const set = '[[usage {"input_tokens":7,"cache_read_input_tokens":8,"cache_creation_input_tokens":9,"output_tokens":10}]][[text x]]';
  const events = parseEvents(await (await post(model, saying(set, { stream: true }))).text());
  expect(events[0]).toMatchObject({ message: { usage: { input_tokens: 7, cache_read_input_tokens: 8, output_tokens: 1 } } });
  expect(events.at(-2)).toMatchObject({ usage: { input_tokens: 7, cache_creation_input_tokens: 9, output_tokens: 10 } });
});

test("text stops at max_tokens", async () => {
  const model = await startModel();
  const response = await post(model, saying("[[text one two three four]]", { max_tokens: 2 }));
  expect(await response.json()).toMatchObject({ stop_reason: "max_tokens", content: [{ text: "one two" }], usage: { output_tokens: 2 } });
});

test("tokens come at the pace asked for", async () => {
  const model = await startModel();
  const began = performance.now();
  expect(await textOf(await post(model, saying("[[slow 5 tokens 20ms]]")))).toBe("w1 w2 w3 w4 w5");
  expect(performance.now() - began).toBeGreaterThan(90);
});

test("a scripted status carries type, message and headers, as often as asked", async () => {
  const model = await startModel();
  const body = saying("[[status 429 x2 retry-after=7 slow down]][[text fine]]", { stream: true });
  for (const _attempt of [1, 2]) {
    const response = await post(model, body);
    expect(response.status).toBe(429);
    expect(response.headers.get("retry-after")).toBe("7");
    expect(await response.json()).toMatchObject({ error: { type: "rate_limit_error", message: "slow down" } });
  }
  expect((await post(model, body)).status).toBe(200);
});

test("an error in mid-stream is an event of a stream that began well", async () => {
  const model = await startModel();
  const response = await post(model, saying("[[text so far]][[error overloaded_error]]", { stream: true }));
  expect(response.status).toBe(200);
  const events = parseEvents(await response.text());
  expect(events.at(-1)).toMatchObject({ type: "error", error: { type: "overloaded_error", message: "Overloaded" } });
  expect(events.map(({ type }) => type)).not.toContain("message_stop");
});

test("a cut breaks the connection after the tokens asked for", async () => {
  const model = await startModel();
  const response = await post(model, saying("[[cut 4]]", { stream: true }));
  let text = "";
  const reading = (async () => {
    for await (const chunk of response.body?.pipeThrough(new TextDecoderStream()) ?? []) text += chunk;
  })();
  await expect(reading).rejects.toThrow();
  expect(parseEvents(text).filter(({ type }) => type === "content_block_delta")).toHaveLength(4);
  await expect.poll(() => model.requests()[0]).toMatchObject({ status: 200, end: "cut" });
});

test("a hang sends nothing until the client leaves or the server closes", async () => {
  const model = await startModel();
  const leaving = new AbortController();
  const left = post(model, saying("[[hang]]"), { signal: leaving.signal });
  setTimeout(() => leaving.abort(), 50);
  await expect(left).rejects.toThrow(/abort/);
  const stuck = post(model, saying("[[hang]]"));
  setTimeout(() => void model.close(), 50);
  await expect(stuck).rejects.toThrow();
});

test("only the newest requests are kept, with key, body and outcome", async () => {
  const model = await startModel({ keep: 2 });
  for (const prompt of ["a", "b", "c"]) await (await post(model, saying(prompt))).text();
  expect(model.requests().map(({ body }) => (body as { messages: { content: string }[] }).messages[0]?.content)).toEqual(["b", "c"]);
  await expect
    .poll(() => model.requests()[1])
    .toMatchObject({ method: "POST", path: "/v1/messages?beta=true", status: 200, headers: { "x-api-key": apiKey } });
});
