import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { type EventPayload, EventPayloadSchema } from "../../../gen/carrel/v1/event_pb.ts";
import { isAnswerTo, isForgotten, isWokenByPrompt, standingOfCall, wakened, wishToEnd, wishToRest } from "../../../server/journal/rules.ts";
import {
  alreadyCommitted,
  type CallNews,
  fateOfTurn,
  followCalls,
  hasGotFurther,
  holdsLease,
  isAct,
  isHeld,
  isLastAsked,
  isReportable,
  isSandboxOf,
  isUnused,
  nextStep,
  type Observed,
  onlyWaits,
  parkAfterMs,
  questionOf,
  type Step,
  setback,
} from "../../../server/runners/rules.ts";
import { keptAwake, notRestored, recovered, unlaunched } from "../../../server/runners/transitions.ts";

const deadlines = { endGraceMs: 5_000, maxRestarts: 3, archiveTimeoutMs: 600_000 };
const well: Observed = {
  state: "running",
  desired: "run",
  sandbox: "running",
  leaseLeftMs: 10_000,
  inStateMs: 60_000,
  restarts: 0,
  started: true,
  lifeLeftMs: 60_000,
  box: true,
  restoring: false,
  occupied: false,
  idleLeftMs: 60_000,
  retryLeftMs: 0,
  parked: false,
};
const dormant = { state: "dormant", desired: "hibernate", sandbox: undefined, box: false, leaseLeftMs: -1 } as const;
const restoring = { state: "starting", restoring: true, desired: "run" } as const;

describe("the next step of a session", () => {
  const table: [string, Partial<Observed>, Step][] = [
    ["all is well", {}, "wait"],
    ["nothing has been started yet", { state: "requested", sandbox: undefined, started: false }, "launch"],
    ["it is to be started again", { state: "requested", sandbox: undefined }, "launch"],
    ["its start came to nothing, and it is not its first", { state: "starting", sandbox: undefined, leaseLeftMs: 1 }, "recover"],
    ["its start came to nothing", { state: "starting", sandbox: undefined, started: false, leaseLeftMs: 1 }, "recover"],
    [
      "its start came to nothing again and again",
      { state: "starting", sandbox: undefined, started: false, leaseLeftMs: 1, restarts: 3 },
      "startup_timeout",
    ],
    ["it starts and its runner is on the way", { state: "starting", started: false, leaseLeftMs: 1 }, "wait"],
    ["it starts, the deadline has passed, the sandbox is there", { state: "starting", started: false, leaseLeftMs: -1 }, "startup_timeout"],
    [
      "it starts, the deadline has passed, there is no sandbox",
      { state: "starting", sandbox: undefined, started: false, leaseLeftMs: -1 },
      "recover",
    ],
    ["its first sandbox left before its runner attached", { state: "starting", sandbox: "exited", started: false }, "recover"],
    ["its first sandbox left again and again", { state: "starting", sandbox: "exited", started: false, restarts: 3 }, "startup_timeout"],
    ["a restart of it does not attach", { state: "starting", leaseLeftMs: -1, restarts: 1 }, "recover"],
    ["a restart of it does not attach, and it was the last one", { state: "starting", leaseLeftMs: -1, restarts: 3 }, "give_up"],
    ["its sandbox has left", { sandbox: "exited" }, "recover"],
    ["its lease has passed", { leaseLeftMs: -1 }, "recover"],
    ["its lease passes in this moment", { leaseLeftMs: 0 }, "wait"],
    ["its sandbox has left and there were enough restarts", { sandbox: "exited", restarts: 3 }, "give_up"],
    ["its sandbox has left and one restart is free", { sandbox: "exited", restarts: 2 }, "recover"],
    ["its lifetime is over", { lifeLeftMs: -1 }, "expire"],
    ["its lifetime is over before it has begun", { lifeLeftMs: -1, state: "requested", sandbox: undefined }, "expire"],
    ["its lifetime is over and it is to end", { lifeLeftMs: -1, desired: "end" }, "ask_to_end"],
    ["it is to end and runs", { desired: "end" }, "ask_to_end"],
    ["its person has left and it runs", { desired: "erase" }, "erase"],
    ["its person has left and it has ended", { desired: "erase", state: "ended", sandbox: undefined, box: false }, "erase"],
    ["its person has left and it is put away", { ...dormant, desired: "erase" }, "erase"],
    ["its person has left and it is brought back", { ...restoring, desired: "erase", leaseLeftMs: -1 }, "erase"],
    ["its person has left and its lifetime is over", { desired: "erase", lifeLeftMs: -1 }, "erase"],
    ["it is to end, runs, and its lease has passed", { desired: "end", leaseLeftMs: -1 }, "ask_to_end"],
    ["it is to end and its sandbox has left", { desired: "end", sandbox: "exited", state: "ending" }, "force_end"],
    ["it is to end before it has begun", { desired: "end", state: "requested", sandbox: undefined }, "force_end"],
    ["it is to end while it starts", { desired: "end", state: "starting" }, "force_end"],
    ["it was asked to end and has time", { desired: "end", state: "ending", inStateMs: 4_999 }, "wait"],
    ["it was asked to end and its time is over", { desired: "end", state: "ending", inStateMs: 5_000 }, "force_end"],
    ["nothing has happened in it for long", { idleLeftMs: -1 }, "hibernate"],
    ["nothing has happened in it for long, but a turn is under way", { idleLeftMs: -1, occupied: true }, "wait"],
    ["it is to be put away", { desired: "hibernate" }, "hibernate"],
    ["it is to be put away, and is at work", { desired: "hibernate", occupied: true }, "wait"],
    ["it is being put away", { desired: "hibernate", state: "hibernating" }, "wait"],
    ["it is being put away for too long", { desired: "hibernate", state: "hibernating", inStateMs: 600_000 }, "stay_awake"],
    ["its sandbox leaves while it is put away", { desired: "hibernate", state: "hibernating", sandbox: "exited" }, "recover"],
    ["it is to end while it is put away", { desired: "end", state: "hibernating" }, "ask_to_end"],
    ["it is dormant", dormant, "wait"],
    ["it is dormant and its sandbox is still there", { ...dormant, box: true, sandbox: "running" }, "clear"],
    ["it is wanted awake and its old sandbox is still there", { ...dormant, desired: "run", box: true }, "clear"],
    ["it is dormant and wanted awake", { ...dormant, desired: "run" }, "wake"],
    ["it is dormant and is to end", { ...dormant, desired: "end" }, "force_end"],
    ["it is dormant and its lifetime is over", { ...dormant, lifeLeftMs: -1 }, "expire"],
    ["it is brought back", restoring, "wait"],
    ["its sandbox leaves while it is brought back", { ...restoring, sandbox: "exited" }, "recover"],
    ["its sandbox leaves again and again while it is brought back", { ...restoring, sandbox: "exited", restarts: 3 }, "give_up_restore"],
    ["bringing it back takes too long", { ...restoring, inStateMs: 600_000 }, "give_up_restore"],
    ["it has ended", { state: "ended", desired: "end", sandbox: undefined }, "wait"],
    ["it has ended, whatever else is seen", { state: "ended", desired: "run", sandbox: "exited", leaseLeftMs: -1 }, "wait"],
  ];
  for (const [name, change, step] of table)
    test(`when ${name}: ${step}`, () => expect(nextStep({ ...well, ...change }, deadlines)).toBe(step));

  test("never waits for ever: whatever is observed, time alone leads to another step or all is well", () => {
    for (const state of ["requested", "starting", "running", "hibernating", "dormant", "ending", "ended"] as const) {
      for (const desired of ["run", "hibernate", "end"] as const) {
        for (const sandbox of ["running", "exited", undefined] as const) {
          for (const [started, restoring, occupied] of [0, 1, 2, 3, 4, 5, 6, 7].map((bits) => [4, 2, 1].map((bit) => (bits & bit) > 0))) {
            const late: Observed = {
              ...{ state, desired, sandbox, started: started!, restoring: restoring!, occupied: occupied! },
              ...{ box: false, restarts: 0, leaseLeftMs: -1, inStateMs: 1e9, lifeLeftMs: 1, idleLeftMs: -1 },
              ...{ retryLeftMs: 0, parked: false },
            };
            const asleep = state === "dormant" && desired === "hibernate";
            expect([late, nextStep(late, deadlines) === "wait"]).toEqual([late, state === "ended" || asleep]);
            expect(nextStep({ ...late, lifeLeftMs: -1 }, deadlines) === "wait").toBe(state === "ended");
          }
        }
      }
    }
  });
});

describe("a session whose steps fail", () => {
  const requested = { ...well, state: "requested", sandbox: undefined } as const;

  test("waits until it is to be tried again, and so does an end", () => {
    for (const desired of ["run", "end", "erase"] as const)
      expect([1, 0].map((retryLeftMs) => nextStep({ ...requested, desired, retryLeftMs }, deadlines) === "wait")).toEqual([true, false]);
  });

  test("is left alone once it is parked, but for its end, the end of its life, and what it left behind when it went to sleep", () => {
    const table: [Partial<Observed>, Step][] = [
      [{}, "wait"],
      [{ state: "running", sandbox: "exited" }, "wait"],
      [{ state: "running", desired: "hibernate", sandbox: "running" }, "wait"],
      [{ state: "starting", restoring: true, leaseLeftMs: -1 }, "wait"],
      [{ state: "dormant", desired: "run" }, "wait"],
      [{ state: "dormant", desired: "hibernate" }, "clear"],
      [{ desired: "end" }, "force_end"],
      [{ state: "running", sandbox: "running", desired: "end" }, "ask_to_end"],
      [{ lifeLeftMs: -1 }, "expire"],
      [{ desired: "erase" }, "erase"],
    ];
    for (const [change, step] of table)
      expect([change, nextStep({ ...requested, parked: true, ...change }, deadlines)]).toEqual([change, step]);
  });

  test("is parked with the last of its tries, unless it is to end or sleeps", () => {
    const tries = { stepTries: 3, parkAfterMs: 0 };
    const after = (failures: number, step: Step, desired: "run" | "hibernate" | "end" = "run") =>
      setback({ failures, failing_since: null, desired, parked_at: null }, step, tries, { now: 0, random: 1 }).parks;
    expect([0, 1, 2, 3].map((failures) => after(failures, "launch"))).toEqual([false, false, true, true]);
    expect(
      (["recover", "hibernate", "stay_awake", "wake", "clear", "give_up_restore", "wait"] as const).every((step) => after(2, step)),
    ).toBe(true);
    expect((["give_up", "startup_timeout", "expire", "ask_to_end", "force_end", "erase"] as const).some((step) => after(9, step))).toBe(
      false,
    );
    expect([after(9, "launch", "end"), after(9, "clear", "hibernate")]).toEqual([false, false]);
    // It cannot be seen how its sandbox is, and its lifetime is over.
    const parked = { failures: 9, failing_since: null, desired: "run", parked_at: new Date(0) } as const;
    expect(setback(parked, "wait", tries, { now: 0, random: 1 }).parks).toBe(false);
  });

  test("is not parked of a row of failures that has lasted less than ten minutes, however many they are", () => {
    const tries = { stepTries: 3, parkAfterMs };
    const after = (failures: number, failingMs: number) =>
      setback({ failures, failing_since: new Date(1_000), desired: "run", parked_at: null }, "launch", tries, {
        now: 1_000 + failingMs,
        random: 1,
      });
    expect([after(20, 599_999), after(20, 600_000), after(1, 600_000)].map(({ parks }) => parks)).toEqual([false, true, false]);
    expect(after(20, 599_999).pauseMs).toBe(30_000);
  });

  test("is tried after growing pauses of up to thirty seconds, not all of them together", () => {
    const session = { failing_since: null, desired: "run", parked_at: null } as const;
    const pauses = (random: number) =>
      [0, 1, 2, 5, 6, 40].map(
        (failures) => setback({ ...session, failures }, "launch", { stepTries: 8, parkAfterMs }, { now: 0, random }).pauseMs,
      );
    expect(pauses(1)).toEqual([500, 1_000, 2_000, 16_000, 30_000, 30_000]);
    expect(pauses(0)).toEqual(pauses(1).map((pause) => pause / 2));
  });

  test("is not parked for a step when it has got further since", () => {
    const seen = { state: "requested", epoch: 4 } as const;
    const further = (state: "requested" | "starting" | "running" | "dormant", epoch: number, step: Step = "launch") =>
      hasGotFurther({ state, epoch }, step === "launch" ? seen : { state: "running", epoch: 4 }, step);
    expect([further("requested", 4), further("starting", 5), further("requested", 6)]).toEqual([false, false, false]);
    expect([further("running", 5), further("dormant", 5), further("requested", 7)]).toEqual([true, true, true]);
    expect([further("running", 4, "recover"), further("requested", 5, "recover")]).toEqual([false, true]);
  });

  test("is forgotten what failed only by a wait that holds nothing back", () => {
    const held = [{}, { parked: true }, { retryLeftMs: 1 }].map((change) => isHeld({ ...well, ...change }));
    expect(held).toEqual([false, true, true]);
  });

  test("takes no last word of a runner that attached to a start which came to nothing", () => {
    const after = unlaunched({ epoch: 4 }, new Date(0));
    expect([after.lease_hash, after.attach_hash, holdsLease(after, 4)]).toEqual([null, null, false]);
    expect(isSandboxOf({ handle: null, epoch: after.epoch }, { id: "left", run: 4 })).toBe(false);
  });

  test("is forgotten with time when it is parked, as when it sleeps, and not when it only waits", () => {
    const now = new Date(10_000);
    const is = (state: "requested" | "dormant" | "ended", parkedMs: number | null, desired: "run" | "hibernate" = "run") =>
      isForgotten({ state, desired, state_since: new Date(0), parked_at: parkedMs === null ? null : new Date(parkedMs) }, now, 5_000);
    expect([is("requested", 5_000), is("requested", 5_001), is("requested", null)]).toEqual([true, false, false]);
    expect([is("dormant", null, "hibernate"), is("dormant", null, "run"), is("dormant", 6_000, "hibernate")]).toEqual([true, false, false]);
    expect(is("ended", 0)).toBe(false);
  });

  test("starts afresh with every other wish, and parked with every word", () => {
    const [at, now] = [new Date(1), new Date(2)];
    const afresh = { failures: 0, failing_since: null, retry_at: null, parked_at: null };
    expect(wishToEnd({ desired: "run" }, "failed")).toMatchObject(afresh);
    expect(wakened({ state: "requested", desired: "run", parked_at: at }, now)).toEqual({ desired: "run", ...afresh, error_message: null });
    expect(wakened({ state: "requested", desired: "run", parked_at: null }, now)).toEqual({ desired: "run" });
    expect(wakened({ state: "running", desired: "hibernate", parked_at: null }, now)).toEqual({ desired: "run", ...afresh });
    expect(wishToRest({ parked_at: null })).toEqual({ desired: "hibernate", ...afresh });
    expect(wishToRest({ parked_at: at })).toEqual({ desired: "hibernate", ...afresh, error_message: null });
    const asking = { turn: 3, pending_count: 1 };
    expect([null, at].map((parked_at) => isWokenByPrompt({ ...asking, parked_at }))).toEqual([false, true]);
  });
});

test("an end that is wanted stays wanted, whatever else happens to the session meanwhile", () => {
  const now = new Date(100_000);
  const idle = { active_at: new Date(0), turn: 0, pending_count: 0, queued_prompts: 0 };
  expect((["run", "hibernate", "end"] as const).map((desired) => isUnused({ ...idle, desired }, now, 1_000))).toEqual([true, true, false]);
  expect(isUnused({ ...idle, desired: "run" }, now, 200_000)).toBe(false);
  expect(isUnused({ ...idle, desired: "hibernate", turn: 3 }, now, 1_000)).toBe(false);
  expect((["run", "hibernate", "end"] as const).map((desired) => keptAwake({ desired }, now).desired)).toEqual(["run", "run", "end"]);
  expect((["run", "end"] as const).map((desired) => notRestored({ desired }, new Date()).desired)).toEqual(["hibernate", "end"]);
});

test("a snapshot answers the last command and no earlier one; a runner of before does not say which it answers", () => {
  expect([6, 7, 8, 0].map((commandId) => isLastAsked({ last_command_id: 7 }, commandId))).toEqual([false, true, false, true]);
});

test("a session whose files were being brought back keeps the name of its box, so that what is half there can be removed", () => {
  const row = { epoch: 4, desired: "run", restarts: 0, restarts_since: null, last_command_id: 9 } as const;
  const after = recovered(row, new Date(0), 60_000);
  expect(after).not.toHaveProperty("box");
  expect(after).toMatchObject({ epoch: 5, state: "requested", handle: null, lease_hash: null, acked_command_id: 9, restarts: 1 });
});

test("a batch is compared with what is committed: skipped, taken, or missed", () => {
  const table: [last: number, first: number, count: number, { skip: number } | { expected: number }][] = [
    [0, 1, 3, { skip: 0 }],
    [3, 4, 2, { skip: 0 }],
    [3, 1, 3, { skip: 3 }],
    [3, 2, 4, { skip: 2 }],
    [3, 1, 1, { skip: 1 }],
    [3, 3, 1, { skip: 1 }],
    [3, 5, 1, { expected: 4 }],
    [0, 2, 1, { expected: 1 }],
    [3, 0, 2, { expected: 4 }],
    [3, -5, 2, { expected: 4 }],
    [3, 99, 0, { skip: 0 }],
  ];
  for (const [last, first, count, answer] of table)
    expect([last, first, count, alreadyCommitted(last, first, count)]).toEqual([last, first, count, answer]);
});

test("a runner reports what the agent does; everything else is the server's word", () => {
  const cases = EventPayloadSchema.oneofs[0]!.fields.map((field) => field.localName as NonNullable<EventPayload["kind"]["case"]>);
  const of = (kind: string) => ({ kind: { case: kind, value: { id: "conversation" } } }) as unknown as EventPayload;
  expect(cases.filter((kind) => isReportable(of(kind))).toSorted()).toEqual([
    "assistant",
    "result",
    "sdkSessionId",
    "sessionError",
    "system",
    "toolResult",
    "toolUse",
  ]);
  expect(cases.filter((kind) => isAct(of(kind))).toSorted()).toEqual(["assistant", "toolResult", "toolUse"]);
  expect([isReportable(undefined), isReportable(create(EventPayloadSchema, {}))]).toEqual([false, false]);
  for (const id of ["", "a b", "a\0", "\u00e9", "x".repeat(201)])
    expect(isReportable(create(EventPayloadSchema, { kind: { case: "sdkSessionId", value: { id } } }))).toBe(false);
});

test("the agent's question is shown as it was asked, and what is no question is shown as nothing", () => {
  const asked = questionOf("t", {
    questions: [
      { question: "Which?", header: "H", multiSelect: true, options: [{ label: "A", description: "a" }, "B", 3] },
      "no object",
      null,
    ],
  });
  expect(
    asked.questions.map(({ question, header, multiSelect, options }) => ({
      question,
      header,
      multiSelect,
      options: options.map(({ label, description }) => [label, description]),
    })),
  ).toEqual([
    {
      question: "Which?",
      header: "H",
      multiSelect: true,
      options: [
        ["A", "a"],
        ["B", ""],
        ["3", ""],
      ],
    },
  ]);
  for (const input of [{}, { questions: "x" }, { questions: null }, { questions: [1, []] }])
    expect(questionOf("t", input).questions).toEqual([]);
});

describe("a turn that waits for people", () => {
  const waiting = { turn: 5, turn_acted: true, pending_count: 1, restoring: false };
  const asks = (call: string, isOfSubAgent = false) => [{ call, isOfSubAgent }];
  const unfinishedAfter = (...events: CallNews[]) => {
    const unfinished = new Set<string>();
    for (const event of events) followCalls(unfinished, waiting.turn, event);
    return unfinished;
  };
  const begun = (call: string, turn = waiting.turn) => ({ turn, news: { begun: call } });

  test("waits for nothing else when every unfinished call is asked about", () => {
    const done = { turn: waiting.turn, news: { done: "a" } };
    expect(onlyWaits(waiting, unfinishedAfter(begun("a"), done, begun("b")), asks("b"))).toBe(true);
    expect(onlyWaits(waiting, unfinishedAfter(begun("a"), begun("b")), asks("b"))).toBe(false);
    expect(onlyWaits(waiting, unfinishedAfter(begun("b")), asks("b", true))).toBe(false);
    expect(onlyWaits({ ...waiting, pending_count: 0 }, unfinishedAfter(), [])).toBe(false);
  });

  test("what an agent before left behind, or the turn before, does not count", () => {
    const replaced = { turn: waiting.turn, news: "agent_replaced" as const };
    expect(onlyWaits(waiting, unfinishedAfter(begun("a"), replaced, begun("b")), asks("b"))).toBe(true);
    expect(onlyWaits(waiting, unfinishedAfter(begun("a", 3), begun("b")), asks("b"))).toBe(true);
  });

  test("an interrupt that is under way is not waited for, whatever is asked meanwhile", () => {
    const interrupted = { turn: waiting.turn, news: "interrupted" as const };
    expect(onlyWaits(waiting, unfinishedAfter(begun("a"), interrupted), asks("a"))).toBe(false);
    expect(onlyWaits(waiting, unfinishedAfter(interrupted, begun("a")), asks("a"))).toBe(false);
  });

  test("its runner lost, it asks again; lost while everything is brought back, it waits as before", () => {
    expect(fateOfTurn(waiting, true)).toBe("asked_again");
    expect(fateOfTurn({ ...waiting, restoring: true }, true)).toBe("kept");
    // Answered meanwhile.
    expect(fateOfTurn({ ...waiting, restoring: true }, false)).toBe("kept");
    expect(fateOfTurn(waiting, false)).toBe("interrupted");
  });
});

test("an answer that was kept counts for the same call of the same turn", () => {
  const kept = { carried: true, turn: 3, asked: "ls" };
  expect(isAnswerTo(kept, { turn: 3, asked: "ls" })).toBe(true);
  // The prompt of turn 5 may have been queued before the answered call was made.
  expect(isAnswerTo(kept, { turn: 5, asked: "ls" })).toBe(false);
  expect(isAnswerTo(kept, { turn: 3, asked: "rm" })).toBe(false);
  expect(isAnswerTo({ ...kept, carried: false }, { turn: 3, asked: "ls" })).toBe(false);
  // Who asked first learned nothing, and is not told now.
  const answered = { outcome: "approved", isDecided: true, isSameInput: true };
  expect([true, false].map((carried) => standingOfCall({ ...answered, carried }))).toEqual(["open", "decided"]);
});
