import { expect, test } from "vitest";
import { createEgressSessions } from "../../../server/broker/egress-sessions.ts";

const limits = { connections: 2, attemptsPerMinute: 5, denialsPerMinute: 3 };

test("a session holds so many connections at once, and a place is given back once", () => {
  const sessions = createEgressSessions(limits, () => 0);
  const first = sessions.admit("a")!;
  expect(sessions.admit("a")).toBeDefined();
  expect(sessions.admit("a")).toBeUndefined();
  expect(sessions.admit("b")).toBeDefined();
  first();
  first();
  expect(sessions.admit("a")).toBeDefined();
  expect(sessions.admit("a")).toBeUndefined();
});

test("attempts are counted by the minute, and open connections outlive it", () => {
  let now = 0;
  const sessions = createEgressSessions(limits, () => now);
  const held = sessions.admit("a")!;
  for (let attempt = 0; attempt < 4; attempt += 1) sessions.admit("a")?.();
  expect(sessions.admit("a")).toBeUndefined();
  now = 60_000;
  expect(sessions.admit("a")).toBeDefined();
  expect(sessions.admit("a")).toBeUndefined();
  held();
  expect(sessions.admit("a")).toBeDefined();
});

test("a denied host is news once a minute, and only so many hosts are", () => {
  let now = 0;
  const sessions = createEgressSessions(limits, () => now);
  expect(["x", "x", "y", "z", "w", "x"].map((host) => sessions.isNews("a", host))).toEqual([true, false, true, true, false, false]);
  expect(sessions.isNews("b", "x")).toBe(true);
  now = 60_001;
  expect(sessions.isNews("a", "x")).toBe(true);
});
