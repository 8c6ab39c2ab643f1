import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { SystemNotice, TurnResult } from "../../gen/carrel/v1/event_pb.ts";
import { SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { checkLog } from "../support/log-checker.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

const silenceMs = 600;
const tries = 2;

let installation: Installation;
let app: App;

beforeAll(async () => {
  installation = await createInstallation({
    CARREL_STANDBY_SANDBOXES: "0",
    CARREL_MODEL_SILENCE_MS: String(silenceMs),
    CARREL_MODEL_TRIES: String(tries),
  });
  app = await startApp(installation);
});
afterAll(async () => {
  await app?.close();
  await installation?.remove();
});

type Turn = {
  result: TurnResult;
  notices: SystemNotice[];
  /** Requests of this session that reached the model, by the HTTP status they were answered with. */
  reached: (number | undefined)[];
  ms: number;
  watcher: Watcher;
  person: Person;
  sessionId: string;
};

/** A session that waits for its first prompt. */
async function begin(email: string): Promise<Turn> {
  const person = await signUp(installation, app.url, email);
  const sessionId = await openSession(person);
  const watcher = watch(person, sessionId);
  await watcher.untilKind("sessionStatus", ({ detail }) => detail === SessionDetail.IDLE);
  return { person, sessionId, watcher } as Turn;
}

/** One prompt, up to the end of its turn. */
async function prompt({ person, sessionId, watcher }: Turn, text: string): Promise<Turn> {
  const from = watcher.events.length;
  const before = installation.model.requests().length;
  const started = performance.now();
  await person.channel.sendPrompt({ sessionId, text });
  const result = await watcher.untilKind("result", () => true, 30_000, from);
  const ms = performance.now() - started;
  const mine = watcher.events.slice(from);
  const reached = installation.model
    .requests()
    .slice(before)
    .map(({ status }) => status);
  return { result, notices: ofKind(mine, "system"), reached, ms, watcher, person, sessionId };
}

/** The session waits and works on, its log is whole, and its bill is the sum of what the log says. */
async function expectWell(turn: Turn): Promise<void> {
  const { person, sessionId, watcher } = turn;
  const { session } = await person.sessions.getSession({ sessionId });
  expect(session!.detail).toBe(SessionDetail.IDLE);
  const next = await prompt(turn, "[[text and on]]");
  expect(next.result.success).toBe(true);
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
  await watcher.stop();
  await checkLog(installation.database.db, person, sessionId);
  const deltas = ofKind(watcher.events, "usageDelta");
  const ended = (await person.sessions.getSession({ sessionId })).session!;
  const sum = (count: (delta: (typeof deltas)[number]) => number) => deltas.reduce((total, delta) => total + count(delta), 0);
  expect(ended.costUsd).toBeCloseTo(
    sum(({ costUsd }) => costUsd),
    9,
  );
  expect(deltas.length).toBeGreaterThan(0);
  expect(ended.usage!.outputTokens).toBe(sum(({ usage }) => usage!.outputTokens));
}

/** What a person is told, and what reached the model, when every try fails. */
const lost: [fault: string, text: string, subtype: string, says: RegExp, reached: (number | undefined)[]][] = [
  [
    "401",
    "[[status 401 invalid x-api-key]]",
    "provider_refused_key",
    /refused the stored key: store a new one with `carrel auth claude set-key`/,
    [401],
  ],
  ["403", "[[status 403 not this model]]", "provider_refused", /refused \(not this model\): mend that with the provider/, [403]],
  ["529", "[[status 529]]", "provider_failing", /at last with 529 \(Overloaded\): send the prompt again in a while/, [529, 529]],
  ["500", "[[status 500]]", "provider_failing", /at last with 500 \(Internal server error\)/, [500, 500]],
  ["an error in the stream", "[[text half]] [[error overloaded_error]]", "provider_failing", /in the middle of an answer/, [200, 200]],
  ["a cut in the stream", "[[cut 5]]", "provider_failing", /in the middle of an answer/, [200, 200]],
  ["no first byte", "[[hang]]", "provider_failing", /by saying nothing for 0.6 s/, [undefined, undefined]],
  ["silence in the stream", "[[text half]] [[hang]]", "provider_failing", /by saying nothing for 0.6 s/, [200, 200]],
];

describe("a provider that does not come round", () => {
  let turn: Turn;
  beforeAll(async () => {
    turn = await begin("lost@example.com");
  });
  test.each(lost)(
    "%s: the turn ends with what to do next, and no try too many reached it",
    async (_fault, text, subtype, says, reached) => {
      turn = await prompt(turn, text);
      expect(turn.result.success).toBe(false);
      expect(turn.notices.filter((notice) => notice.subtype !== "api_retry")).toMatchObject([
        { subtype, message: expect.stringMatching(says) },
      ]);
      expect(turn.result.summary).toMatch(says);
      expect(turn.reached).toEqual(reached);
      expect(turn.ms).toBeLessThan(10_000);
    },
  );
  test("and the session works on, its bill is what its log says, each answer counted once", () => expectWell(turn));
});

describe("a provider that comes round", () => {
  let turn: Turn;
  beforeAll(async () => {
    turn = await begin("won@example.com");
  });
  test.each<[string, string, (number | undefined)[], number]>([
    ["429 with retry-after, which is honoured", "[[status 429 x1 retry-after=1]] [[text done]]", [429, 200], 1_000],
    ["529", "[[status 529 x1]] [[text done]]", [529, 200], 0],
    ["a cut in the stream", "[[cut 5 x1]] [[text done]]", [200, 200], 0],
    ["no first byte", "[[hang x1]] [[text done]]", [undefined, 200], silenceMs],
  ])("%s: the turn goes on", async (_fault, text, reached, atLeastMs) => {
    turn = await prompt(turn, text);
    expect(turn.result).toMatchObject({ success: true, summary: "done" });
    expect(turn.reached).toEqual(reached);
    expect(turn.ms).toBeGreaterThanOrEqual(atLeastMs);
  });
  test("and the bill is what the log says", () => expectWell(turn));
});

test("who is asked to wait for an hour does not: the turn ends, and nobody asks again until then", async () => {
  const turn = await prompt(await begin("busy@example.com"), "[[status 429 retry-after=3600]]");
  expect(turn.result.summary).toMatch(/wants to be left alone for 3600 s: send the prompt again after 20/);
  expect(turn.reached).toEqual([429]);
  const next = await prompt(turn, "[[text impatient]]");
  expect(next.result.summary).toMatch(/left alone for 3\d{3} s/);
  expect(next.reached).toEqual([]);
  await next.person.sessions.terminateSession({ sessionId: next.sessionId });
  await next.watcher.stop();
});
