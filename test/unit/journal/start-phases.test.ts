import { expect, test } from "vitest";
import { StartPhaseSchema } from "../../../gen/carrel/v1/session_pb.ts";
import { startPhases } from "../../../server/journal/session-view.ts";
import { agentReady, phaseEnded, phaseUnderWay, startBegun, timedPhases } from "../../../server/journal/start-phases.ts";
import { wordOf } from "../../../server/words.ts";

const at = (ms: number) => new Date(ms);

test("each phase takes the time since the one before, in the order of the contract", () => {
  let marks = phaseEnded(startBegun(at(1_000)), "sandbox", at(1_040));
  expect(phaseUnderWay(marks, false)).toBe("runner");
  marks = phaseEnded(marks, "runner", at(1_140));
  expect([phaseUnderWay(marks, true), phaseUnderWay(marks, false)]).toEqual(["restore", "agent"]);
  marks = phaseEnded(marks, "restore", at(1_440));
  marks = agentReady(marks, at(2_000), 500);
  expect(timedPhases(marks)).toEqual([
    { phase: "sandbox", durationMs: 40 },
    { phase: "runner", durationMs: 100 },
    { phase: "restore", durationMs: 300 },
    { phase: "agent", durationMs: 200 },
  ]);
  expect(phaseUnderWay(marks, true)).toBeUndefined();
  expect(StartPhaseSchema.values.slice(1).map(({ number }) => [wordOf(StartPhaseSchema, number), number])).toEqual(
    Object.entries(startPhases),
  );
});

test("a sandbox that is written down after its runner attached, and an agent that was ready before, took no longer than they did", () => {
  const begun = startBegun(at(1_000));
  const late = phaseEnded(phaseEnded(begun, "runner", at(1_100)), "sandbox", at(1_130));
  expect(timedPhases(late).map(({ durationMs }) => durationMs)).toEqual([100, 0]);
  const early = agentReady(phaseEnded(late, "restore", at(1_900)), at(2_000), 50);
  expect(timedPhases(early).map(({ durationMs }) => durationMs)).toEqual([100, 0, 800, 0]);
});

test("a phase ends once, not in the future, and not of a start that is on no record", () => {
  const marks = phaseEnded(startBegun(at(0)), "sandbox", at(5));
  expect(phaseEnded(marks, "sandbox", at(9))).toBe(marks);
  expect(agentReady(phaseEnded(marks, "runner", at(10)), at(50), 1_000_000)?.agent).toBe(50);
  expect([phaseEnded(null, "agent", at(1)), agentReady(null, at(1), 1), phaseUnderWay(null, true)]).toEqual([null, null, undefined]);
  expect(timedPhases(null)).toEqual([]);
});
