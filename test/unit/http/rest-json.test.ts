import { create, fromJson, type JsonValue } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema, ValueSchema } from "@bufbuild/protobuf/wkt";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Int64RulesSchema } from "../../../gen/buf/validate/validate_pb.ts";
import { ChannelService } from "../../../gen/carrel/v1/channel_service_pb.ts";
import { EventSchema, SessionEndSchema, ToolResultSchema } from "../../../gen/carrel/v1/event_pb.ts";
import { EndReason, PermissionMode, SessionSchema, SessionStatus, SessionStatusSchema } from "../../../gen/carrel/v1/session_pb.ts";
import { SessionService } from "../../../gen/carrel/v1/session_service_pb.ts";
import { noProblems } from "../../../server/http/rest/problems.ts";
import { createMessageReaders } from "../../../server/http/rest/reader.ts";
import { parseStrictJson } from "../../../server/http/rest/strict-json.ts";
import { enumWords } from "../../../server/http/rest/words.ts";
import { createMessageWriters } from "../../../server/http/rest/writer.ts";

const writerOf = createMessageWriters();
const readerOf = createMessageReaders();

describe("writing", () => {
  test("an unset message, time, optional number and unspecified enum are null, everything else has its default", () => {
    expect(writerOf(SessionEndSchema)(create(SessionEndSchema))).toEqual({ reason: null, exit_code: null, message: "" });
    expect(writerOf(SessionEndSchema)(create(SessionEndSchema, { exitCode: 0, reason: EndReason.USER_REQUESTED }))).toEqual({
      reason: "user_requested",
      exit_code: 0,
      message: "",
    });
    expect(writerOf(SessionSchema)(create(SessionSchema))).toMatchObject({
      created_at: null,
      usage: null,
      allowed_tools: [],
      demo: false,
      cost_usd: 0,
    });
  });

  test("of a oneof only the member that is set is written", () => {
    const event = create(EventSchema, { seq: 1, payload: { kind: { case: "turnStart", value: { promptSeq: 4 } } } });
    expect(writerOf(EventSchema)(event)).toEqual({ seq: 1, created_at: null, turn: 0, payload: { turn_start: { prompt_seq: 4 } } });
  });

  test("times are UTC with as many digits as they need", () => {
    const at = (nanos: number) =>
      (writerOf(SessionSchema)(create(SessionSchema, { createdAt: { seconds: 1_700_000_000n, nanos } })) as { created_at: string })
        .created_at;
    expect([at(0), at(7_000_000), at(7_001_000)]).toEqual([
      "2023-11-14T22:13:20.000Z",
      "2023-11-14T22:13:20.007Z",
      "2023-11-14T22:13:20.007001Z",
    ]);
  });

  test("a Value is plain JSON of any kind", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (json) => {
        const plain = JSON.parse(JSON.stringify(json)) as JsonValue;
        const content = fromJson(ValueSchema, plain);
        expect((writerOf(ToolResultSchema)(create(ToolResultSchema, { content })) as { content: unknown }).content).toEqual(plain);
      }),
    );
  });

  test("a type that REST has no form for is refused when it is compiled", () => {
    expect(() => writerOf(Int64RulesSchema)).toThrow("64-bit");
    expect(() => readerOf(Int64RulesSchema)).toThrow("no form for this type");
    expect(() => writerOf(FileDescriptorProtoSchema)).toThrow("google.protobuf.FileDescriptorProto");
  });
});

describe("reading", () => {
  test("every answer of strings, numbers and enums that is a request too reads back as it was written", () => {
    fc.assert(
      fc.property(
        fc.record({
          name: fc.string({ unit: "grapheme" }),
          allowedTools: fc.array(fc.string({ unit: "grapheme" })),
          permissionMode: fc.constantFrom(...Object.values(PermissionMode)),
        }),
        (init) => {
          const { input } = SessionService.method.createSession;
          const message = create(input, init);
          const back = create(input);
          const problems = noProblems();
          readerOf(input).fill(back, JSON.parse(JSON.stringify(writerOf(input)(message))), "", problems);
          expect([back, problems]).toEqual([message, noProblems()]);
        },
      ),
    );
  });

  test("any JSON at all is read or refused, never thrown at", () => {
    const { input } = ChannelService.method.answerApproval;
    const keys = fc.constantFrom("session_id", "tool_use_id", "approved", "approval_scope", "updated_input", "message", "other");
    fc.assert(
      fc.property(fc.dictionary(keys, fc.jsonValue()), (json) => {
        const problems = noProblems();
        readerOf(input).fill(create(input), JSON.parse(JSON.stringify(json)), "", problems);
        expect(problems.unknown.every((name) => name === "other")).toBe(true);
      }),
    );
  });
});

describe("words", () => {
  test("the words of the contract are the product's, with the old ones understood", () => {
    const words = enumWords(SessionStatusSchema);
    expect(words.words).toEqual(["starting", "running", "ended"]);
    expect(["pending", "terminated", "failed", "SESSION_STATUS_RUNNING", "Running", ""].map((word) => words.numberOf(word))).toEqual([
      SessionStatus.STARTING,
      SessionStatus.ENDED,
      SessionStatus.ENDED,
      SessionStatus.RUNNING,
      undefined,
      undefined,
    ]);
  });
});

describe("strict JSON", () => {
  const parse = (text: string) => parseStrictJson(Buffer.from(text));

  test("reads what JSON.parse reads", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 5 }), fc.constantFrom(undefined, 2), (json, indent) => {
        const text = JSON.stringify(json, undefined, indent);
        if (text.includes("__proto__")) return;
        expect(parse(text)).toEqual(JSON.parse(text));
      }),
    );
  });

  test("finds a repeated key in the object that repeats it and nowhere else", () => {
    expect(parse('{"a":{"b":1},"c":[{"b":1},{"b":2}],"d":"b","b":"a"}')).toBeTypeOf("object");
    for (const text of ['{"a":1,"a":1}', '{"x":[{"a":1 , "a" : 2}]}', '{"\\"":1,"\\u0022":2}'])
      expect(() => parse(text)).toThrow("repeats the key");
  });

  test("a text of a megabyte is no trouble, whatever is in it", () => {
    for (const unit of ["x", '\\"', "\\\\", " "]) expect(parse(`{"a":"${unit.repeat(500_000)}","b":1}`)).toHaveProperty("b", 1);
  });

  test("brackets inside strings do not count as depth", () => {
    expect(parse(JSON.stringify({ a: "[".repeat(1000) }))).toBeTypeOf("object");
    expect(() => parse("[".repeat(65) + "]".repeat(65))).toThrow("nested deeper");
  });
});
