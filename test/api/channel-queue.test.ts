/** The queue of prompts, and answers that come again: what the caller is told, and what the log and the runner get. */
import { create } from "@bufbuild/protobuf";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { ApprovalScope } from "../../gen/carrel/v1/approval_pb.ts";
import {
  AnswerApprovalRequestSchema,
  AnswerQuestionRequestSchema,
  CancelPromptRequestSchema,
  SendPromptRequestSchema,
} from "../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { reasonOf } from "../../server/errors.ts";
import type { User } from "../../server/identity/principal.ts";
import { finishTurn } from "../../server/journal/turns.ts";
import { attach, createHarness, type Harness, ofType, type Person, type Served } from "./websocket-harness.ts";

let harness: Harness;
let served: Served;
let owner: Person;
let user: User;
let sessionId: string;

beforeAll(async () => {
  harness = await createHarness();
  served = await harness.serve();
  owner = await harness.person("owner@example.com");
  user = {
    issuer: "carrel",
    subject: "owner",
    email: "owner@example.com",
    operator: false,
    expiresAt: Date.now() + 600_000,
    userId: owner.userId,
  };
});
afterAll(() => harness.close());
beforeEach(async () => {
  sessionId = await harness.session(owner);
});

const send = async (text: string) => (await harness.actions.sendPrompt(user, create(SendPromptRequestSchema, { sessionId, text }))).seq;
const cancel = async (seq: number, requestId = "") =>
  (await harness.actions.cancelPrompt(user, create(CancelPromptRequestSchema, { sessionId, seq, requestId }))).seq;
const finish = () => harness.change(sessionId, (change) => finishTurn(change, { success: true, subtype: "success" }));
const log = async () =>
  (await harness.reader.events(await harness.reader.session(owner.userId, sessionId), 0, 200)).map(({ payload }) => payload!.kind);
const commands = async () => (await harness.db.selectFrom("command").select("id").where("session_id", "=", sessionId).execute()).length;
const begun = async () => (await log()).flatMap((kind) => (kind.case === "turnStart" ? [kind.value.promptSeq] : []));
const queued = async () => (await harness.reader.session(owner.userId, sessionId)).queued_prompts;

async function reasonFor(call: Promise<unknown>): Promise<ErrorReason | undefined> {
  return reasonOf(
    await call.then(
      () => undefined,
      (error: unknown) => error,
    ),
  );
}

describe("a queued prompt", () => {
  it("that is taken back never begins, the others do in order, and the log says who took it back", async () => {
    const [first, second, third] = [await send("one"), await send("two"), await send("three")];
    const seq = await cancel(second);
    expect(await queued()).toBe(1);
    expect((await log())[seq - 1]).toMatchObject({ case: "promptCanceled", value: { promptSeq: second, canceledBy: "owner@example.com" } });
    await finish();
    await finish();
    expect(await begun()).toEqual([first, third]);
    expect(await queued()).toBe(0);
  });

  it("taken back again is answered as the first time, and nothing more is written", async () => {
    await send("one");
    const second = await send("two");
    const seq = await cancel(second, "again");
    expect(await cancel(second)).toBe(seq);
    expect(await cancel(second, "again")).toBe(seq);
    expect(await Promise.all([cancel(second), cancel(second, "other")])).toEqual([seq, seq]);
    expect((await log()).filter((kind) => kind.case === "promptCanceled")).toHaveLength(1);
    expect(await reasonFor(cancel(second + 1, "again"))).toBe(ErrorReason.REQUEST_ID_REUSED);
  });

  it("cannot be taken back once its turn began, nor after it", async () => {
    const [first, second] = [await send("one"), await send("two")];
    expect(await reasonFor(cancel(first))).toBe(ErrorReason.PROMPT_STARTED);
    await finish();
    expect(await reasonFor(cancel(second))).toBe(ErrorReason.PROMPT_STARTED);
    await finish();
    expect(await reasonFor(cancel(first))).toBe(ErrorReason.PROMPT_STARTED);
  });

  it("is either taken back or begun when both happen at once, never both", async () => {
    for (let round = 0; round < 20; round++) {
      sessionId = await harness.session(owner);
      await send("one");
      const second = await send("two");
      const [canceled] = await Promise.all([cancel(second).catch((error: unknown) => reasonOf(error)), finish()]);
      if (canceled === ErrorReason.PROMPT_STARTED) expect(await begun()).toContain(second);
      else expect(await begun()).not.toContain(second);
    }
  });

  it.each([
    ["an event that is no prompt", (first: number) => first + 1],
    ["a number that is not there yet", (first: number) => first + 1_000],
  ])("is not %s", async (_name, of) => {
    expect(await reasonFor(cancel(of(await send("one"))))).toBe(ErrorReason.NOT_FOUND);
  });

  it("of somebody else, or of an ended session, is refused", async () => {
    await send("one");
    const second = await send("two");
    const stranger = { ...user, userId: (await harness.person(`${sessionId}@example.com`)).userId };
    const asked = create(CancelPromptRequestSchema, { sessionId, seq: second });
    expect(await reasonFor(harness.actions.cancelPrompt(stranger, asked))).toBe(ErrorReason.NOT_FOUND);
    await harness.change(sessionId, (change) => change.set({ desired: "end", end_reason: "user_requested" }));
    expect(await reasonFor(cancel(second))).toBe(ErrorReason.SESSION_ENDED);
  });

  it("is told to everybody on the WebSocket", async () => {
    await send("one");
    const second = await send("two");
    const client = attach(served, sessionId, owner);
    await client.next(ofType("session_status"));
    const seq = await cancel(second);
    expect(await client.next(ofType("system"))).toMatchObject({
      seq,
      payload: { subtype: "prompt_canceled", prompt_seq: second, canceled_by: "owner@example.com" },
    });
    client.socket.terminate();
  });
});

describe("over REST", () => {
  async function rest(method: string, path: string) {
    const url = `${served.url.replace("ws", "http")}/v1/sessions/${sessionId}${path}`;
    const response = await fetch(url, { method, headers: { authorization: `Bearer ${owner.token}` } });
    return { status: response.status, body: (await response.json()) as Record<string, unknown> };
  }

  it("the queue is listed in pages and a prompt in it taken back", async () => {
    const first = await send("one");
    const waiting: number[] = [];
    for (const text of ["two", "three", "four"]) waiting.push(await send(text));
    expect((await rest("GET", "/prompts")).body).toEqual({
      prompts: ["two", "three", "four"].map((text, index) => ({
        seq: waiting[index],
        text,
        request_id: "",
        created_at: expect.stringMatching(/^\d{4}-.*Z$/) as string,
      })),
    });
    const page = async (query: string) => (await rest("GET", `/prompts${query}`)).body["prompts"] as { seq: number }[];
    expect((await page("?limit=2")).map(({ seq }) => seq)).toEqual(waiting.slice(0, 2));
    expect((await page(`?limit=2&after_seq=${waiting[1]}`)).map(({ seq }) => seq)).toEqual(waiting.slice(2));

    const canceled = await rest("DELETE", `/prompts/${waiting[1]}?request_id=r`);
    expect(canceled).toEqual({ status: 200, body: { seq: expect.any(Number) as number } });
    expect(await rest("DELETE", `/prompts/${waiting[1]}?request_id=r`)).toEqual(canceled);
    expect((await page("")).map(({ seq }) => seq)).toEqual([waiting[0], waiting[2]]);
    expect(await rest("DELETE", `/prompts/${first}`)).toMatchObject({
      status: 409,
      body: { error: "prompt_started", details: { seq: String(first) } },
    });
    expect((await rest("DELETE", "/prompts/nonsense")).status).toBe(400);
  });

  it("a queue of long prompts comes in pages of few bytes, and whole", async () => {
    await send("one");
    const texts = Array.from({ length: 5 }, (_, index) => `${index}${"x".repeat(100_000)}`);
    for (const text of texts) await send(text);
    const got: string[] = [];
    let pages = 0;
    for (let after = 0; ; pages++) {
      const { body } = await rest("GET", `/prompts?after_seq=${after}`);
      const prompts = body["prompts"] as { seq: number; text: string }[];
      if (prompts.length === 0) break;
      got.push(...prompts.map(({ text }) => text));
      after = prompts.at(-1)!.seq;
    }
    expect(got).toEqual(texts);
    expect(pages).toBeGreaterThan(2);
  });
});

describe("an approval that was answered", () => {
  const answer = async (more: object = {}, who = user) =>
    harness.actions.answerApproval(who, create(AnswerApprovalRequestSchema, { sessionId, toolUseId: "t1", approved: true, ...more }));
  beforeEach(() => harness.askApproval(sessionId, "t1"));

  it("by the same person with the same content again gets the same answer, and nothing happens", async () => {
    const first = await answer({ approvalScope: ApprovalScope.SESSION, updatedInput: { command: "ls -l", b: { x: 1, y: 2 } } });
    const events = (await log()).length;
    expect(await answer({ approvalScope: ApprovalScope.SESSION, updatedInput: { b: { y: 2, x: 1 }, command: "ls -l" } })).toEqual(first);
    expect(
      await answer({ approvalScope: ApprovalScope.SESSION, updatedInput: { command: "ls -l", b: { x: 1, y: 2 } }, requestId: "r" }),
    ).toEqual(first);
    expect(first.pattern).toBe("Bash(ls:*)");
    expect([(await log()).length, await commands()]).toEqual([events, 1]);
  });

  it("takes once and nothing for the same scope, and a default message for the same words", async () => {
    const first = await answer();
    expect(await answer({ approvalScope: ApprovalScope.ONCE })).toEqual(first);
    await harness.askApproval(sessionId, "t2");
    const denied = await answer({ toolUseId: "t2", approved: false });
    expect(await answer({ toolUseId: "t2", approved: false, message: "The user denied this tool call." })).toEqual(denied);
  });

  it.each<[string, object]>([
    ["the other way", { approved: false }],
    ["with another scope", { approvalScope: ApprovalScope.SESSION }],
    ["with another input", { updatedInput: { command: "ls -a" } }],
  ])("%s is refused with who was first", async (_name, more) => {
    await answer();
    expect(await reasonFor(answer(more))).toBe(ErrorReason.ALREADY_ANSWERED);
  });

  it("by a request id is answered again by it, and refused with other content", async () => {
    const first = await answer({ requestId: "mine" });
    expect(await answer({ requestId: "mine" })).toEqual(first);
    expect(await reasonFor(answer({ requestId: "mine", approved: false }))).toBe(ErrorReason.REQUEST_ID_REUSED);
    await harness.change(sessionId, (change) => change.set({ desired: "end", end_reason: "user_requested" }));
    expect(await answer({ requestId: "mine" }), "also when the session has ended since").toEqual(first);
    expect(await reasonFor(answer())).toBe(ErrorReason.SESSION_ENDED);
  });

  it("by many at once with two contents is answered once; those who said the same are told the same", async () => {
    const outcomes = await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        answer({ approved: index % 2 === 0 }).then(
          ({ seq }) => ({ index, seq }),
          (error: unknown) => ({ index, reason: reasonOf(error) }),
        ),
      ),
    );
    const won = outcomes.filter((outcome) => "seq" in outcome);
    expect(won).toHaveLength(10);
    expect(new Set(won.map(({ index }) => index % 2)).size).toBe(1);
    expect(new Set(won.map(({ seq }) => seq)).size).toBe(1);
    expect(outcomes.filter((outcome) => "reason" in outcome).every(({ reason }) => reason === ErrorReason.ALREADY_ANSWERED)).toBe(true);
    expect(await commands()).toBe(1);
  });

  it("that nobody answered, because the turn was interrupted, is refused", async () => {
    await send("one");
    await finish();
    expect(await reasonFor(answer())).toBe(ErrorReason.ALREADY_ANSWERED);
  });
});

it("a question answered again with the same words gets the same answer, with others it is refused", async () => {
  await harness.askQuestion(sessionId, "q1");
  const answer = (answers: Record<string, string>) =>
    harness.actions.answerQuestion(user, create(AnswerQuestionRequestSchema, { sessionId, questionId: "q1", answers }));
  const first = await answer({ Colour: "blue" });
  expect(await answer({ Colour: "blue" })).toEqual(first);
  expect(await reasonFor(answer({ Colour: "red" }))).toBe(ErrorReason.ALREADY_ANSWERED);
  expect(await reasonFor(answer({ Size: "big" }))).toBe(ErrorReason.ALREADY_ANSWERED);
  expect(await commands()).toBe(1);
});
