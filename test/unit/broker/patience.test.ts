import { describe, expect, test } from "vitest";
import { createPatience, type Failure } from "../../../server/broker/patience.ts";

const main = { ownerId: "ada", sessionId: "ses_1", turn: 1, agent: "" };
const helper = { ...main, agent: "a1" };
const refused = (status: number, retryAfterMs = 0): Failure => ({ kind: "refused", status, said: "so it is", retryAfterMs });
const cut: Failure = { kind: "cut" };

function patienceAt(tries = 3) {
  const clock = { now: 1_000_000 };
  return { clock, patience: createPatience({ tries, now: () => clock.now }) };
}

describe("failures in a row", () => {
  test("end at the last try, and the next prompt begins anew", () => {
    const { patience } = patienceAt();
    expect([1, 2].map(() => patience.failed(main, refused(529)))).toEqual([undefined, undefined]);
    expect(patience.hold(main)).toBeUndefined();
    expect(patience.failed(main, refused(529))).toMatchObject({ subtype: "provider_failing" });
    expect(patience.hold(main)).toBeUndefined();
    expect(patience.failed(main, refused(529))).toBeUndefined();
  });

  test("in the middle of answers end at the next request", () => {
    const { patience } = patienceAt();
    for (let times = 0; times < 3; times += 1) expect(patience.failed(main, cut)).toBeUndefined();
    expect(patience.hold(main)).toMatchObject({ subtype: "provider_failing" });
    expect(patience.hold(main)).toBeUndefined();
  });

  test("are over with an answer, or after ten minutes", () => {
    const { patience, clock } = patienceAt();
    for (const over of [() => patience.answered(main), () => (clock.now += 600_001)]) {
      patience.failed(main, cut);
      patience.failed(main, cut);
      over();
      patience.failed(main, cut);
      expect(patience.hold(main)).toBeUndefined();
      patience.answered(main);
    }
  });

  test("of a sub-agent are its own", () => {
    const { patience } = patienceAt(2);
    patience.failed(helper, cut);
    patience.failed(helper, cut);
    expect(patience.hold(main)).toBeUndefined();
    expect(patience.hold(helper)).toMatchObject({ subtype: "provider_failing" });
  });

  test("of all agents of a session together end the turn for each of them, whatever they call themselves", () => {
    const { patience } = patienceAt();
    const one = (number: number, turn = 1) => ({ ...main, turn, agent: `invented-${number}` });
    for (let number = 1; number < 12; number += 1) {
      expect(patience.hold(one(number))).toBeUndefined();
      expect(patience.failed(one(number), refused(529))).toBeUndefined();
    }
    expect(patience.failed(one(12), refused(529))).toMatchObject({ subtype: "provider_failing" });
    for (const asker of [one(13), one(1), main, main]) expect(patience.hold(asker)).toMatchObject({ subtype: "provider_failing" });
    expect(patience.hold({ ...main, sessionId: "ses_2" })).toBeUndefined();
    expect(patience.hold(one(14, 2)), "in the next turn").toBeUndefined();
  });

  test("of a session are over with any answer, another key, or after ten minutes", () => {
    const { patience, clock } = patienceAt();
    const fail = (times: number) => {
      for (let number = 0; number < times; number += 1) patience.failed({ ...main, agent: `${clock.now}-${number}` }, cut);
    };
    for (const over of [() => patience.answered(main), () => patience.forget("ada"), () => (clock.now += 600_001)]) {
      fail(11);
      over();
      clock.now += 1;
      fail(11);
      expect(patience.hold(helper)).toBeUndefined();
      fail(1);
      expect(patience.hold(helper)).toMatchObject({ subtype: "provider_failing" });
      patience.answered(main);
    }
  });

  test("of silence count for half of them", () => {
    const { patience } = patienceAt(8);
    const silent: Failure = { kind: "silent", afterMs: 300_000, begun: false };
    expect(patience.failed(main, silent)).toBeUndefined();
    expect(patience.failed(main, silent)).toMatchObject({ message: expect.stringContaining("saying nothing for 300 s") });
  });
});

describe("a provider that wants to be left alone", () => {
  test("is, by everybody of the session and nobody else's", () => {
    const { patience, clock } = patienceAt();
    expect(patience.failed(main, refused(429, 5_000))).toBeUndefined();
    expect(patience.hold(helper)).toEqual({ retryAfterMs: 5_000 });
    expect(patience.hold({ ...main, sessionId: "ses_2" })).toBeUndefined();
    clock.now += 5_000;
    expect(patience.hold(helper)).toBeUndefined();
  });

  test("for longer than a minute is not waited for", () => {
    const { patience } = patienceAt();
    expect(patience.failed(main, refused(429, 61_000))).toMatchObject({ subtype: "provider_busy" });
    expect(patience.hold(main)).toMatchObject({ subtype: "provider_busy" });
  });

  test("for a day is asked again after five minutes", () => {
    const { patience, clock } = patienceAt();
    patience.failed(main, refused(429, 86_400_000));
    clock.now += 299_999;
    expect(patience.hold(main)).toMatchObject({ message: expect.stringContaining("for 86101 s") });
    clock.now += 1;
    expect(patience.hold(main)).toBeUndefined();
  });

  test("is asked at once for whoever has another key, in all of their sessions and nobody else's", () => {
    const { patience } = patienceAt();
    const other = { ...main, sessionId: "ses_2" };
    const stranger = { ...main, ownerId: "eve", sessionId: "ses_3" };
    for (const asker of [main, other, stranger]) patience.failed(asker, refused(429, 86_400_000));
    patience.forget("ada");
    expect([main, other].map(patience.hold)).toEqual([undefined, undefined]);
    expect(patience.hold(stranger)).toMatchObject({ subtype: "provider_busy" });
  });

  test("nor what its agents have tried, once another key is stored", () => {
    const { patience } = patienceAt(2);
    const stranger = { ...main, ownerId: "eve", sessionId: "ses_3" };
    for (const asker of [main, main, stranger, stranger]) patience.failed(asker, { kind: "cut" });
    patience.forget("ada");
    expect(patience.hold(main)).toBeUndefined();
    expect(patience.hold(stranger)).toMatchObject({ subtype: "provider_failing" });
  });
});

test.each([401, 402, 403])("%i is final at the first try", (status) => {
  const { patience } = patienceAt();
  expect(patience.failed(main, refused(status))).toMatchObject({ refused: true });
  expect(patience.hold(main)).toBeUndefined();
});
