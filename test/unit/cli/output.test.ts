import { PassThrough } from "node:stream";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { chosen } from "../../../cli/answers.ts";
import { createOutput, type Output } from "../../../cli/output.ts";
import { renderEvent } from "../../../cli/output-events.ts";
import { createLiveOutput } from "../../../cli/output-live.ts";
import { createSanitiser, safeJson, sanitise } from "../../../cli/output-text.ts";
import { collectPatterns } from "../../../cli/recipe-options.ts";
import type { Surroundings } from "../../../cli/surroundings.ts";
import { QuestionItemSchema } from "../../../gen/carrel/v1/approval_pb.ts";
import { DeltaKind, DeltaSchema, type EventPayloadSchema, EventSchema } from "../../../gen/carrel/v1/event_pb.ts";

describe("sanitising", () => {
  test.each([
    ["plain text", "plain text"],
    ["line\nnext\ttab", "line\nnext\ttab"],
    ["grüße 漢字 🎉", "grüße 漢字 🎉"],
    ["\u001b[31mred\u001b[0m", "red"],
    ["\u001b[2J\u001b[1;1Hhome", "home"],
    ["\u001b[?1049h", ""],
    ["\u009b31mred", "red"],
    ["\u001b]0;title\u0007rest", "]0;titlerest"],
    ["\u001b]52;c;c2VjcmV0\u001b\\rest", "]52;c;c2VjcmV0\\rest"],
    ["\u001bPdevice\u001b\\", "Pdevice\\"],
    ["over\rwritten", "overwritten"],
    ["dos\r\n", "dos\n"],
    ["back\b\b\bspace", "backspace"],
    ["nul\u0000 bell\u0007 del\u007f", "nul bell del"],
    ["\u202egnirts\u202c \u2066x\u2069", "gnirts x"],
    ["\u001b", ""],
    ["\u001b\u001b[31mred", "red"],
  ])("%j becomes %j", (text, safe) => {
    expect(sanitise(text)).toBe(safe);
  });

  test("is the same however the text is cut", () => {
    const text = "a\u001b[31mred\u001b[0m b\u009b2Jc\u001b]0;t\u0007d\u001b";
    for (let cut = 0; cut <= text.length; cut++) {
      const pieces = createSanitiser();
      expect(pieces(text.slice(0, cut)) + pieces(text.slice(cut))).toBe(sanitise(text));
    }
  });

  test("hides nothing in the JSON of a call: what is unsafe is written out", () => {
    const json = safeJson({ command: "rm -rf / \u001b[8m\u009b\u202e\u007f" });
    expect(json).toBe('{"command":"rm -rf / \\u001b[8m\\u009b\\u202e\\u007f"}');
    expect(JSON.parse(json)).toEqual({ command: "rm -rf / \u001b[8m\u009b\u202e\u007f" });
  });
});

type Kind = MessageInitShape<typeof EventPayloadSchema>["kind"];
const eventOf = (kind: Kind) => create(EventSchema, { seq: 1, payload: kind ? { kind } : {} });

function captured(isTTY = false): { output: Output; text: () => string; problems: () => string } {
  const [stdout, stderr] = [Object.assign(new PassThrough(), { isTTY }), Object.assign(new PassThrough(), { isTTY })];
  const read = (stream: PassThrough) => ((stream.read() as Buffer | null) ?? "").toString();
  const output = createOutput({ stdout, stderr, env: {} } as unknown as Surroundings, { json: false, quiet: false, color: true });
  return { output, text: () => read(stdout), problems: () => read(stderr) };
}

describe("events", () => {
  const long = "x".repeat(5000);
  test.each<[string, Kind, string]>([
    [
      "a tool call on one line, cut",
      { case: "toolUse", value: { id: "t", name: "Write", input: { text: long } } },
      `tool_use Write (t): {"text":"${"x".repeat(491)}…\n`,
    ],
    [
      "a tool result, cut",
      { case: "toolResult", value: { toolUseId: "t", content: { kind: { case: "stringValue", value: long } } } },
      `tool_result (t): ${"x".repeat(4000)}…\n`,
    ],
    [
      "an approval whole",
      { case: "toolApprovalRequest", value: { toolUseId: "t", toolName: "Bash", toolInput: { command: long } } },
      `approval needed: Bash (t): {"command":"${long}"}\n`,
    ],
    ["an end", { case: "sessionEnd", value: { reason: 3, exitCode: 0 } }, "session ended: job_completed (exit_code=0)\n"],
    ["a notice", { case: "system", value: { subtype: "budget_exceeded", message: "enough" } }, "system[budget_exceeded]: enough\n"],
    [
      "a sub-agent",
      { case: "assistant", value: { content: { case: "text", value: "hi" }, parentToolUseId: "t" } },
      "assistant (sub-agent): hi\n",
    ],
  ])("show %s", (_name, kind, expected) => {
    const { output, text } = captured();
    renderEvent(eventOf(kind), { verbose: false, quiet: false })?.print(output);
    expect(text()).toBe(expected);
  });

  test("show the text of a result's blocks", () => {
    const { output, text } = captured();
    const blocks = {
      kind: {
        case: "listValue" as const,
        value: {
          values: [
            {
              kind: {
                case: "structValue" as const,
                value: {
                  fields: {
                    type: { kind: { case: "stringValue" as const, value: "text" } },
                    text: { kind: { case: "stringValue" as const, value: "inside" } },
                  },
                },
              },
            },
          ],
        },
      },
    };
    renderEvent(eventOf({ case: "toolResult", value: { toolUseId: "t", content: blocks } }), { verbose: false, quiet: false })?.print(
      output,
    );
    expect(text()).toBe("tool_result (t): inside\n");
  });

  test.each<Kind>([
    { case: "sessionStatus", value: {} },
    { case: "usageDelta", value: {} },
    { case: "sdkSessionId", value: { id: "x" } },
    { case: "turnStart", value: {} },
    { case: "system", value: { subtype: "hook_started" } },
    { case: "assistant", value: { content: { case: "text", value: "" } } },
  ])("that are noise are left out, unless everything is wanted: $case", (kind) => {
    expect(renderEvent(eventOf(kind), { verbose: false, quiet: false })).toBeUndefined();
    expect(renderEvent(eventOf(kind), { verbose: true, quiet: false })).toBeDefined();
  });

  test("unknown to this version are skipped", () => {
    expect(renderEvent(eventOf(undefined), { verbose: true, quiet: false })).toBeUndefined();
  });

  test("that are errors go to stderr", () => {
    const { output, text, problems } = captured();
    renderEvent(eventOf({ case: "sessionError", value: { error: "agent_crashed", details: "once" } }), {
      verbose: false,
      quiet: false,
    })?.print(output);
    expect(text()).toBe("");
    expect(problems()).toBe("error [agent_crashed]: once\n");
  });
});

describe("a growing answer", () => {
  const delta = (blockId: string, offset: number, text: string, kind: DeltaKind = DeltaKind.TEXT) =>
    create(DeltaSchema, { blockId, offset, text, kind });
  const said = (blockId: string, value: string) => eventOf({ case: "assistant", value: { blockId, content: { case: "text", value } } });

  function live(isTTY = false) {
    const capture = captured(isTTY);
    const options = { sessionId: "s", raw: false, verbose: false, quiet: false, now: () => new Date(0), isShown: () => false };
    return { ...capture, live: createLiveOutput(capture.output, options), text: () => capture.text().replace(/\[\d\d:\d\d:\d\d\] /g, "") };
  }

  test("is completed by its event and never repeated", () => {
    const { live: shown, text } = live();
    shown.delta(delta("b", 0, "Hel"));
    shown.delta(delta("b", 3, "lo"));
    shown.delta(delta("b", 3, "lo"));
    shown.event(said("b", "Hello world"));
    shown.event(said("c", "Next"));
    expect(text()).toBe("assistant: Hello world\nassistant: Next\n");
  });

  test("with a lost piece stops growing and is whole in the end", () => {
    const { live: shown, text } = live();
    shown.delta(delta("b", 0, "one "));
    shown.delta(delta("b", 8, "three"));
    shown.event(said("b", "one two three"));
    expect(text()).toBe("assistant: one two three\n");
  });

  test("whose beginning was lost waits for its event", () => {
    const { live: shown, text } = live();
    shown.delta(delta("b", 4, "two"));
    shown.event(said("b", "one two"));
    expect(text()).toBe("assistant: one two\n");
  });

  test("that another event interrupts goes on under its name", () => {
    const { live: shown, text } = live();
    shown.delta(delta("b", 0, "one "));
    shown.event(eventOf({ case: "system", value: { subtype: "note", message: "hm" } }));
    shown.delta(delta("b", 4, "two"));
    shown.event(said("b", "one two three"));
    expect(text()).toBe("assistant: one \nsystem[note]: hm\nassistant: two three\n");
  });

  test("does not mix with another that grows at the same time", () => {
    const { live: shown, text } = live();
    shown.delta(delta("a", 0, "aa"));
    shown.delta(delta("b", 0, "bb"));
    shown.delta(delta("a", 2, "AA"));
    shown.event(said("b", "bbBB"));
    shown.event(said("a", "aaAA!"));
    expect(text()).toBe("assistant: aaAA\nassistant: bbBB\nassistant: !\n");
  });

  test("that a notice interrupts on a terminal goes on below it", () => {
    const { live: shown, text, output } = live(true);
    shown.delta(delta("b", 0, "one "));
    output.notice("hm");
    shown.event(said("b", "one two"));
    shown.event(said("c", "three"));
    expect(
      text()
        .replace(/\u001b\[[\d;]*m/g, "")
        .replace(/\[\d\d:\d\d:\d\d\] /g, ""),
    ).toBe("assistant: one \ntwo\nassistant: three\n");
  });

  test("that ends with a line end adds no empty line", () => {
    const { live: shown, text } = live();
    shown.delta(delta("b", 0, "one\n"));
    shown.event(said("b", "one\n"));
    shown.event(said("c", "two"));
    expect(text()).toBe("assistant: one\nassistant: two\n");
  });
});

test.each([
  [false, "2", "blue"],
  [false, " 1 ", "red"],
  [false, "3", "3"],
  [false, "green", "green"],
  [false, "1,2", "1,2"],
  [true, "1,2", "red, blue"],
  [true, "2 1", "blue, red"],
  [true, "1, 7", "1, 7"],
  [true, "neither", "neither"],
])("with several allowed: %s, %j chooses %j", (multiSelect, line, expected) => {
  expect(chosen(create(QuestionItemSchema, { multiSelect, options: [{ label: "red" }, { label: "blue" }] }), line)).toBe(expected);
});

test("patterns are separated by commas, but not inside parentheses", () => {
  expect(collectPatterns("Read, Bash(git:*, npm:*),,mcp__x__y")).toEqual(["Read", "Bash(git:*, npm:*)", "mcp__x__y"]);
  expect(collectPatterns("Edit", ["Read"])).toEqual(["Read", "Edit"]);
});
