/** A checker that never fails proves nothing: for each invariant histories that break it, each of which it has to find. */
import { expect, test } from "vitest";
import { SessionDetail } from "../../../gen/carrel/v1/session_pb.ts";
import type { Evidence, SessionEvidence } from "../../faults/history/evidence.ts";
import { strandedArchives } from "../../faults/history/files-invariants.ts";
import { invariants, judge } from "../../faults/history/invariants.ts";
import { bill, healthy, logOf, only, sampleOf, sessionOf, status, user } from "./histories.ts";

type Healthy = ReturnType<typeof healthy>;
type Broken = [invariant: string, how: string, breaking: (evidence: Healthy) => Partial<Evidence>];

/** The session with other facts, or other parts. */
const facts = (evidence: Healthy, changes: Partial<SessionEvidence["session"]>) => ({
  sessions: [{ ...only(evidence), session: { ...only(evidence).session, ...changes } }],
});
const parts = (evidence: Healthy, changes: Partial<SessionEvidence>) => ({ sessions: [{ ...only(evidence), ...changes }] });
const rows = (evidence: Healthy, change: (row: SessionEvidence["rows"][number]) => Partial<SessionEvidence["rows"][number]>) =>
  parts(evidence, { rows: only(evidence).rows.map((row) => ({ ...row, ...change(row) })) });
const call = (changes: Partial<Evidence["calls"][number]>): Evidence["calls"][number] => ({
  method: "SendPrompt",
  sessionId: "ses_a",
  requestId: "p1",
  content: "p1",
  outcome: "acknowledged",
  seq: 3,
  ...changes,
});
const shown = (evidence: Healthy, change: (events: Evidence["readers"][number]["events"]) => Evidence["readers"][number]["events"]) => ({
  readers: evidence.readers.map((reader) => ({ ...reader, events: change(reader.events) })),
});
const end = { case: "sessionEnd" as const, value: {} };

const broken: readonly Broken[] = [
  ["I1", "an acknowledged prompt is not in the log", (one) => ({ calls: [...one.calls, call({ requestId: "p2", seq: 12 })] })],
  ["I1", "an acknowledged prompt is another event than was said", () => ({ calls: [call({ seq: 2 })] })],
  ["I1", "an acknowledged event of the runner is not in the log", () => ({ reported: [{ sessionId: "ses_a", epoch: 1, runnerSeq: 4 }] })],
  ["I1", "a session that was made is not there", (one) => ({ calls: [...one.calls, call({ method: "CreateSession", made: "ses_b" })] })],
  ["I2", "a runner's event is in the log twice", (one) => rows(one, ({ seq }) => (seq === 8 ? { runner_seq: 1 } : {}))],
  ["I2", "a turn's work was done twice", () => ({ looks: [{ sessionId: "ses_a", turn: 3, lines: ["x", "y", "x"] }] })],
  ["I3", "an event is missing", (one) => parts(one, { rows: only(one).rows.filter(({ seq }) => seq !== 6) })],
  ["I3", "the session counts more than there is", (one) => facts(one, { last_seq: 12 })],
  ["I3", "an old event was altered", (one) => rows(one, ({ seq }) => (seq === 4 ? { payload: new Uint8Array([1]) } : {}))],
  ["I3", "the session's link is of another log", (one) => facts(one, { chain: Buffer.alloc(32, 1) })],
  [
    "I4",
    "a runner's events changed places",
    (one) => rows(one, ({ seq }) => (seq === 6 ? { runner_seq: 2 } : seq === 8 ? { runner_seq: 1 } : {})),
  ],
  ["I5", "an earlier epoch wrote after a later one", (one) => rows(one, ({ seq }) => (seq === 6 ? { epoch: 2 } : {}))],
  ["I6", "somebody wrote for an epoch that was over", (one) => ({ samples: [sampleOf(one, { epoch: 2, last_seq: 5 })] })],
  [
    "I6",
    "a snapshot of a replaced runner was kept",
    (one) => {
      const [first] = only(one).snapshots;
      return parts(one, { snapshots: [{ ...first!, epoch: 2, generation: 0 }, first!] });
    },
  ],
  ["I6", "a replaced runner was let in", () => ({ zombies: [{ sessionId: "ses_a", what: "a model call", accepted: true }] })],
  ["I7", "a prompt is in the log twice", () => ({ sessions: [logOf("ses_a", (log) => [...log.slice(0, 3), { kind: user("p1") }])] })],
  ["I7", "a refused prompt is in the log", () => ({ calls: [call({ outcome: "failed", reason: "RATE_LIMITED" })] })],
  ["I7", "one request id, two answers", (one) => ({ calls: [...one.calls, call({ seq: 5 })] })],
  ["I7", "one request id, two contents", (one) => ({ calls: [...one.calls, call({ content: "something else" })] })],
  ["I8", "a reader was not shown an event", (one) => shown(one, (events) => events.filter(({ seq }) => seq !== 5))],
  ["I8", "a reader was shown an event twice", (one) => shown(one, (events) => [events[0]!, ...events])],
  ["I8", "a reader was not shown the end", (one) => shown(one, (events) => events.slice(0, -1))],
  ["I8", "a reader was shown what the log does not hold", (one) => shown(one, (events) => events.map((event) => ({ ...event, turn: 9 })))],
  [
    "I9",
    "dormant to working, without being brought back",
    () => ({
      sessions: [logOf("ses_a", (log) => [...log, { kind: status(SessionDetail.WORKING) }])],
    }),
  ],
  ["I9", "two ends", () => ({ sessions: [logOf("ses_a", (log) => [...log, { kind: end }, { kind: end }], { state: "ended" })] })],
  ["I9", "a word after the end", () => ({ sessions: [logOf("ses_a", (log) => [{ kind: end }, ...log.slice(0, 2)], { state: "ended" })] })],
  ["I9", "an end that was taken back", (one) => ({ samples: [sampleOf(one, { state: "ended", end_reason: "completed" })] })],
  [
    "I9",
    "another end reason than before",
    (one) => ({
      ...facts(one, { state: "ended", end_reason: "failed" }),
      samples: [sampleOf(one, { state: "ended", end_reason: "completed" })],
    }),
  ],
  ["I9", "an epoch that went back", (one) => ({ samples: [sampleOf(one, { epoch: 3 }), sampleOf(one, { epoch: 1 })] })],
  [
    "I9b",
    "a turn inside a turn",
    () => ({
      sessions: [
        logOf("ses_a", (log) => [...log.slice(0, 5), { kind: user("p2") }, { kind: { case: "turnStart", value: { promptSeq: 6 } } }]),
      ],
    }),
  ],
  [
    "I9b",
    "a pause that was never open is resolved",
    () => ({
      sessions: [logOf("ses_a", (log) => [...log, { kind: { case: "toolApprovalResolved", value: { toolUseId: "t" } } }])],
    }),
  ],
  ["I10", "more sessions at once than are allowed", () => ({ limits: { concurrentSessions: 0, profiles: 10 } })],
  ["I10", "two default profiles", () => ({ profiles: [{ ownerId: "somebody", count: 2, defaults: 2 }] })],
  ["I10", "too many profiles", () => ({ profiles: [{ ownerId: "somebody", count: 11, defaults: 1 }] })],
  [
    "I11",
    "more than one answer over the budget",
    (one) => facts(one, { max_budget_micros: 1, usage: { ...only(one).session.usage, cost_micros: 1002 } }),
  ],
  ["I11", "more turns than allowed", (one) => facts(one, { max_turns: 1, model_requests: 2 })],
  ["I11", "a session that lived too long", (one) => facts(one, { ttl_seconds: 5, terminated_at: new Date(16_000) })],
  [
    "I12",
    "an answer that is in the log and not in the tally",
    (one) => facts(one, { usage: { ...only(one).session.usage, output_tokens: 4 } }),
  ],
  [
    "I12",
    "an answer that was billed twice",
    () => ({
      sessions: [logOf("ses_a", (log) => [...log.slice(0, 7), { kind: bill(0) }], {})].map((one) => ({
        ...one,
        session: { ...one.session, usage: healthy().sessions[0]!.session.usage },
      })),
    }),
  ],
  [
    "I13",
    "files of an older snapshot came back",
    () => ({
      looks: [
        { sessionId: "ses_a", turn: 5, lines: ["x", "y"] },
        { sessionId: "ses_a", turn: 7, lines: ["x"] },
      ],
    }),
  ],
  [
    "I13",
    "files of two generations were mixed",
    () => ({
      looks: [
        { sessionId: "ses_a", turn: 5, lines: ["x", "y"] },
        { sessionId: "ses_a", turn: 7, lines: ["x", "z", "y"] },
      ],
    }),
  ],
  ["I14", "a fork changed its source", () => ({ forks: [{ sourceId: "ses_a", before: "1", after: "2" }] })],
  ["I14", "two sessions share a token", (one) => ({ sessions: [only(one), sessionOf("ses_b", [], { tokens: ["token of ses_a"] })] })],
  [
    "I14",
    "two sessions share an archive",
    (one) => ({ sessions: [only(one), { ...sessionOf("ses_b", []), snapshots: only(one).snapshots }] }),
  ],
  ["I15", "an archive is gone", () => ({ archives: [] })],
  ["I15", "an archive was altered", (one) => ({ archives: one.archives.map((archive) => ({ ...archive, sha256: "78" })) })],
  ["I15", "an archive does not open", (one) => ({ archives: one.archives.map((archive) => ({ ...archive, opens: false })) })],
  ["I15", "the pointer leads nowhere", (one) => facts(one, { snapshot_generation: 2 })],
  ["I15", "dormant without a snapshot", (one) => facts(one, { snapshot_generation: null })],
  ["I16", "a mount is left", () => ({ leftovers: { mounts: ["/somewhere"] } })],
  [
    "I16",
    "a sandbox outlives its session",
    (one) => ({
      samples: [0, 10_000, 16_000].map((atMs) => sampleOf(one, {}, { atMs, sandboxes: [{ box: "box_ses_a", uid: 1 }] })),
    }),
  ],
  [
    "I17",
    "two sandboxes run as one user",
    (one) => ({
      samples: [
        sampleOf(
          one,
          {},
          {
            sandboxes: [
              { box: "a", uid: 1 },
              { box: "b", uid: 1 },
            ],
          },
        ),
      ],
    }),
  ],
  ["L1", "a session is on its way for ever", (one) => facts(one, { state: "hibernating" })],
  ["L1", "rest came too late", (one) => ({ waits: { ...one.waits, converged: 60_001 } })],
  ["L2", "a spool stayed full", (one) => ({ waits: { ...one.waits, spools: 30_001 } })],
  ["L3", "a reader stayed behind", (one) => ({ waits: { ...one.waits, readers: 5_001 } })],
  ["L4", "a lock is held", () => ({ stuck: ["a transaction is idle"] })],
  ["L5", "a server did not leave", (one) => ({ waits: { ...one.waits, drain: 30_001 } })],
];

test("nothing is wrong with a history in which nothing went wrong", () => {
  expect(judge(healthy())).toEqual([]);
});

test.each(broken)("%s is broken: %s", (invariant, _how, breaking) => {
  const evidence = healthy();
  expect(judge({ ...evidence, ...breaking(evidence) }).map((one) => one.invariant)).toContain(invariant);
});

test("there is a broken history for every invariant", () => {
  expect([...new Set(broken.map(([invariant]) => invariant))]).toEqual(invariants.map(({ id }) => id));
});

test("an archive that no row names is told apart from one that is needed", () => {
  const evidence = healthy();
  expect(strandedArchives(evidence)).toEqual([]);
  expect(strandedArchives({ ...evidence, archives: [...evidence.archives, { name: "ses_a/arc_2", bytes: 1, sha256: "" }] })).toEqual([
    "ses_a/arc_2",
  ]);
});
