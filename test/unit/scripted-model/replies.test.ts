import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { DirectiveError, parseDirectives } from "../../../demo/scripted-model/directives.ts";
import { parseScript } from "../../../demo/scripted-model/script.ts";
import { bodyWith, post, saying, startModel, textOf } from "./support.ts";

type Message = { role: string; content: unknown };

/** A conversation in which each tool call so far was answered by the given texts. */
function after(prompt: string, ...results: string[]): Message[] {
  return [
    { role: "user", content: prompt },
    ...results.flatMap((content, index) => [
      { role: "assistant", content: [{ type: "tool_use", id: `t${index}`, name: "Bash", input: {} }] },
      { role: "user", content: [{ type: "tool_result", tool_use_id: `t${index}`, content }] },
    ]),
  ];
}

test("directives become steps in their order, and other text and brackets are ignored", () => {
  const steps = parseDirectives('Do [[think a]] if [[ -f x ]] then [[tool Bash {"command":"[[ -f \\"]]\\" ]] && a"}]] [[text b]] please');
  expect(steps).toEqual([
    { do: "think", text: "a" },
    { do: "tools", calls: [{ name: "Bash", input: { command: '[[ -f "]]" ]] && a' } }] },
    { do: "text", text: "b" },
  ]);
  expect(parseDirectives("if [[ -f x ]]; then [[toolbox]]; fi")).toBeUndefined();
});

test("a sub-agent's prompt carries its own directives", () => {
  const inner = 'look [[tool Bash {"command":"ls ]]"}]] [[subagent deep [[text x]]]]';
  const steps = parseDirectives(`[[subagent ${inner}]][[+subagent two]][[text end]]`);
  expect(steps).toMatchObject([
    {
      do: "tools",
      calls: [
        { name: "Agent", input: { prompt: inner } },
        { name: "Agent", input: { prompt: "two" } },
      ],
    },
    { do: "text", text: "end" },
  ]);
});

test.each([
  "[[tool Bash {]]",
  '[[tool Bash {"a":1} twice]]',
  "[[status soon]]",
  "[[slow 3]]",
  "[[text open",
  "[[+tool Bash {}]]",
  "[[ask Why? | one]]",
  '[[usage {"tokens":1}]]',
  "[[cut soon]]",
])("a malformed directive is named: %s", async (prompt) => {
  expect(() => parseDirectives(prompt)).toThrow(DirectiveError);
  const model = await startModel();
  expect(await textOf(await post(model, saying(prompt)))).toContain("Directive not understood");
});

test("where a directive conversation stands follows from the request alone", async () => {
  const prompt = '<system-reminder>[[text no]]</system-reminder>[[tool Bash {"command":"a"} x2]][[text got {{tool_result}}]]';
  const model = await startModel();
  const say = async (messages: Message[]) =>
    (await (await post(model, bodyWith({ messages }))).json()) as { stop_reason: string; content: { text?: string }[] };
  for (const _again of [1, 2]) {
    expect((await say(after(prompt))).stop_reason).toBe("tool_use");
    expect((await say(after(prompt, "one"))).stop_reason).toBe("tool_use");
    expect((await say(after(prompt, "one", "two"))).content[0]?.text).toBe("got two");
    expect((await say(after(prompt, "one", "two", "three"))).content[0]?.text).toBe('Done. The last tool result was: "three"');
  }
});

test("results of parallel calls are quoted in the order of the calls, whichever finished first", async () => {
  const model = await startModel();
  const call = (id: string) => ({ type: "tool_use", id, name: "Bash", input: {} });
  const result = (id: string) => ({ type: "tool_result", tool_use_id: id, content: id });
  const messages = [
    { role: "user", content: "[[tool Bash {}]][[+tool Bash {}]][[text {{tool_result}}]]" },
    { role: "assistant", content: [call("first"), call("second")] },
    { role: "user", content: [result("second"), result("first")] },
  ];
  expect(await textOf(await post(model, bodyWith({ messages })))).toBe("first\nsecond");
});

test("an earlier turn is seen, and an interruption is no prompt", async () => {
  const model = await startModel();
  const messages = [
    { role: "user", content: "[[text one]]" },
    { role: "assistant", content: "one" },
    {
      role: "user",
      content: [
        { type: "text", text: "[Request interrupted by user]" },
        { type: "text", text: "[[text {{n}}: {{earlier}}, {{earlier_answers}}]]" },
      ],
    },
    { role: "system", content: "a note" },
  ];
  expect(await textOf(await post(model, bodyWith({ messages })))).toBe('2: "[[text one]]", "one"');
});

test("a broken answer goes on behind its break when the agent asks for the rest", async () => {
  const model = await startModel();
  const prompt = "[[text before]][[cut 1 x1]][[text after]]";
  await expect(post(model, saying(prompt))).rejects.toThrow();
  const messages = [
    ...after(prompt),
    { role: "assistant", content: "before w1" },
    { role: "user", content: "Your response above was cut off mid-stream. Resume directly from where it stops." },
  ];
  expect(await textOf(await post(model, bodyWith({ messages })))).toBe("after");
});

test("a message sent while the agent works is obeyed in the same turn", async () => {
  const model = await startModel();
  const note = "The user sent a new message while you were working:\n[[text second]]\n\nThis is how Claude Code surfaces it.";
  const messages = [...after('[[tool Bash {"command":"a"}]][[text first. ]]', "x"), { role: "system", content: note }];
  expect(await textOf(await post(model, bodyWith({ messages })))).toBe("first.second");
});

const script = parseScript(`
name: test
rules:
  - when: { tool_error: false, tool_result: needle }
    reply: [{ text: "found it in {{tool_result}}" }]
  - when: { prompt: once }
    times: 1
    reply: [{ status: { code: 529 } }]
  - when: { subagent: true }
    reply: [{ text: from the sub-agent }]
  - when: { model: haiku }
    reply: [{ text: small }]
  - when: { prompt_matches: "^run\\\\b", offers: Bash }
    reply:
      - tools: [{ name: Bash, input: { command: a } }, { name: Bash, input: { command: b } }]
      - text: "{{tool_result}} for {{prompt}}"
  - when: { turn: 1 }
    reply: [{ text: "first, {{earlier}}" }]
  - reply: [{ text: "turn {{n}}" }]
`);

test("the first rule that matches answers, and a rule goes on where its tool call left it", async () => {
  const model = await startModel({ script });
  const tools = [{ name: "Bash", input_schema: { type: "object" } }];
  const text = async (fields: Record<string, unknown>) => textOf(await post(model, bodyWith(fields)));
  expect(await text({})).toBe("first, nothing");
  expect(await text({ model: "claude-haiku-5" })).toBe("small");
  expect(await text({ system: [{ type: "text", text: "cc_is_subagent=true;" }] })).toBe("from the sub-agent");
  const run = (await (await post(model, saying("run it", { tools }))).json()) as { content: unknown[]; stop_reason: string };
  expect(run.content).toHaveLength(2);
  expect(await text({ tools, messages: after("run it", "x") })).toBe("x for run it");
  expect(await text({ tools, messages: after("run it", "a needle") })).toBe("found it in a needle");
  expect(await text({ messages: [...after("a"), { role: "assistant", content: "b" }, ...after("c")] })).toBe("turn 2");
  const statuses = [];
  for (const _attempt of [1, 2]) statuses.push((await post(model, saying("just once"))).status);
  expect(statuses).toEqual([529, 200]);
});

test.each([
  ["name: x\nrules: [{ reply: [{ shout: loud }] }]", /rules\[0\]\.reply\[0\]/],
  ["name: x\nrules: [{ when: { prompt_matches: '(' }, reply: [{ text: a }] }]", /prompt_matches/],
  ["name: x\nrules: [{ whenever: {}, reply: [{ text: a }] }]", /whenever/],
  ["rules: []", /name/],
])("a script with a mistake is refused with its place", (yaml, words) => {
  expect(() => parseScript(yaml)).toThrow(words);
});

test("helper requests of the agent get a sensible answer", async () => {
  const model = await startModel({ script });
  const schema = { type: "object", properties: { title: { type: "string" }, isNew: { type: "boolean" } } };
  const body = saying("<session>fix the login page</session>\nWrite the title", {
    output_config: { format: { type: "json_schema", schema } },
  });
  expect(JSON.parse(await textOf(await post(model, body)))).toEqual({ title: "fix the login page", isNew: false });
});

test("the demo says in its first answer that no real model is at work", async () => {
  const demo = parseScript(await readFile(new URL("../../../demo/scripts/demo.yaml", import.meta.url), "utf8"));
  const model = await startModel({ script: demo, pace: 0 });
  const names = ["Bash", "Agent", "AskUserQuestion"];
  const tools = names.map((name) => ({ name, input_schema: { type: "object" } }));
  for (const prompt of ["hello", "list the files", "ask me a question", "use a sub-agent", "what is this?"]) {
    for (const offered of [tools, []]) {
      expect(await textOf(await post(model, saying(prompt, { tools: offered })))).toMatch(/demo.*no real model/is);
    }
  }
});
