import { beforeEach, expect, test } from "vitest";
import { createLiveSessions, type LiveSessions } from "../../../server/broker/live-sessions.ts";
import type { SessionCore } from "../../../server/journal/store.ts";
import { noUsage } from "../../../server/journal/tables.ts";

const hash = (text: string) => Buffer.from(text);
const row = (values: Partial<SessionCore> = {}) =>
  ({
    id: "ses_1",
    owner_id: "owner",
    epoch: 3,
    box: "box_1",
    state: "running",
    desired: "run",
    phantom_hash: hash("token"),
    usage: noUsage,
    max_budget_micros: 100,
    model_requests: 0,
    max_turns: null,
    ...values,
  }) as SessionCore;
const spent = (micros: number, requests: number) => row({ usage: { ...noUsage, cost_micros: micros }, model_requests: requests });

let clock: number;
let live: LiveSessions;

beforeEach(() => {
  clock = 5_000;
  live = createLiveSessions(() => clock);
});

test("a token opens what was committed under it less than a second ago, and nothing else does", () => {
  expect(live.find(hash("token"))).toBeUndefined();
  live.committed(row());
  expect(live.find(hash("token"))).toEqual({
    sessionId: "ses_1",
    ownerId: "owner",
    epoch: 3,
    box: "box_1",
    spentMicros: 0,
    maxBudgetMicros: 100,
    modelRequests: 0,
    maxTurns: null,
  });
  expect(live.find(hash("other"))).toBeUndefined();
  expect(live.find(hash(""))).toBeUndefined();
  clock += 999;
  expect(live.find(hash("token"))).toBeDefined();
  clock += 1;
  expect(live.find(hash("token"))).toBeUndefined();
});

test.each([
  ["ended", row({ state: "ended", phantom_hash: null })],
  ["asked to end", row({ desired: "end" })],
  ["being put away", row({ desired: "hibernate" })],
  ["lost", row({ state: "starting", epoch: 4, phantom_hash: hash("next") })],
])("one that is %s is asked of the database at once, also where an earlier commit is told of later", (_name, over) => {
  live.committed(row());
  live.committed(over);
  for (const token of ["token", "next"]) expect(live.find(hash(token))).toBeUndefined();
  live.committed(row());
  expect(live.find(hash("token"))).toBeUndefined();
  clock += 1_000;
  live.committed(row());
  expect(live.find(hash("token"))).toBeDefined();
});

test("what was spent is spent, in whatever order its commits are told of", () => {
  for (const [micros, requests] of [
    [10, 1],
    [30, 3],
    [20, 2],
  ] as const)
    live.committed(spent(micros, requests));
  expect(live.find(hash("token"))).toMatchObject({ spentMicros: 30, modelRequests: 3 });
});

test("a bell for one session, or for any, sends to the database, for as long as what this process says may be older", () => {
  for (const rung of ["ses_1", undefined]) {
    live.committed(row());
    live.committed(row({ id: "ses_2", phantom_hash: hash("token 2") }));
    live.rung(rung);
    expect([live.find(hash("token")), live.find(hash("token 2")) !== undefined]).toEqual([undefined, rung !== undefined]);
    live.committed(row());
    expect(live.find(hash("token"))).toBeUndefined();
    clock += 1_000;
    live.committed(row());
    expect(live.find(hash("token"))).toBeDefined();
  }
});

test("a token that was replaced opens nothing, and of many sessions the oldest are forgotten", () => {
  live.committed(row());
  live.committed(row({ epoch: 4, phantom_hash: hash("next") }));
  expect([live.find(hash("token")), live.find(hash("next"))?.epoch]).toEqual([undefined, 4]);
  for (let index = 0; index < 1_000; index += 1) live.committed(row({ id: `ses_n${index}`, phantom_hash: hash(`n${index}`) }));
  expect([live.find(hash("next")), live.find(hash("n0"))?.sessionId]).toEqual([undefined, "ses_n0"]);
});
