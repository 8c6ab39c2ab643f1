// A history in which nothing is wrong, and what it takes to write one down.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type EventPayloadSchema, EventSchema } from "../../../gen/carrel/v1/event_pb.ts";
import { SessionDetail } from "../../../gen/carrel/v1/session_pb.ts";
import { chainLink, emptyChain } from "../../../server/journal/seal.ts";
import { noUsage } from "../../../server/journal/tables.ts";
import { type Evidence, nothingHappened, type Sample, type SessionEvidence } from "../../faults/history/evidence.ts";

type Kind = NonNullable<MessageInitShape<typeof EventPayloadSchema>["kind"]>;
type Line = { kind: Kind; turn?: number; epoch?: number; runnerSeq?: number };

/** A session whose log is these lines. */
export function sessionOf(id: string, lines: readonly Line[], facts: Partial<SessionEvidence["session"]> = {}): SessionEvidence {
  let chain: Uint8Array = emptyChain;
  const rows = lines.map(({ epoch = 1, runnerSeq }, index) => {
    const payload = new TextEncoder().encode(`${id}/${index + 1}`);
    chain = chainLink(chain, index + 1, payload);
    return { seq: index + 1, epoch, runner_seq: runnerSeq ?? null, payload, chain: Buffer.from(chain) };
  });
  return {
    session: {
      id,
      owner_id: "somebody",
      state: "running",
      end_reason: null,
      epoch: 1,
      last_seq: rows.length,
      chain: Buffer.from(chain),
      box: `box_${id}`,
      snapshot_generation: null,
      forked_from: null,
      max_budget_micros: null,
      max_turns: null,
      model_requests: 0,
      usage: noUsage,
      ttl_seconds: null,
      created_at: new Date(0),
      terminated_at: null,
      tokens: [`token of ${id}`],
      ...facts,
    },
    rows,
    events: lines.map(({ kind, turn = 0 }, index) => create(EventSchema, { seq: index + 1, turn, payload: { kind } })),
    snapshots: [],
  };
}

export const status = (detail: SessionDetail): Kind => ({ case: "sessionStatus", value: { detail } });
export const user = (requestId: string): Kind => ({ case: "user", value: { text: requestId, requestId } });
const text = (value: string): Kind => ({ case: "assistant", value: { blockId: value, content: { case: "text", value } } });
export const bill = (outputTokens: number, costUsd = 0.001): Kind => ({ case: "usageDelta", value: { usage: { outputTokens }, costUsd } });

const lines: readonly Line[] = [
  { kind: status(SessionDetail.PROVISIONING), epoch: 0 },
  { kind: status(SessionDetail.IDLE) },
  { kind: user("p1") },
  { kind: { case: "turnStart", value: { promptSeq: 3 } }, turn: 3 },
  { kind: status(SessionDetail.WORKING), turn: 3 },
  { kind: text("one"), turn: 3, runnerSeq: 1 },
  { kind: bill(5), turn: 3 },
  { kind: text("two"), turn: 3, runnerSeq: 2 },
  { kind: { case: "result", value: { success: true } }, turn: 3, runnerSeq: 3 },
  { kind: status(SessionDetail.IDLE) },
  { kind: status(SessionDetail.DORMANT) },
];

const archive = { name: "ses_a/arc_1", bytes: 7, sha256: "77", opens: true };

/** One dormant session after one turn, watched by one reader, sampled once. */
export function healthy(): Evidence & { sessions: SessionEvidence[] } {
  const one: SessionEvidence = {
    ...sessionOf("ses_a", lines, { state: "dormant", snapshot_generation: 1, usage: { ...noUsage, output_tokens: 5, cost_micros: 1000 } }),
    snapshots: [{ generation: 1, epoch: 1, archive: archive.name, bytes: archive.bytes, sha256: archive.sha256 }],
  };
  const { id, state, epoch, last_seq, end_reason, snapshot_generation, box } = one.session;
  return {
    ...nothingHappened,
    sessions: [one],
    calls: [
      { method: "SendPrompt", sessionId: id, requestId: "p1", content: "p1", outcome: "unknown" },
      { method: "SendPrompt", sessionId: id, requestId: "p1", content: "p1", outcome: "acknowledged", seq: 3 },
    ],
    reported: [{ sessionId: id, epoch: 1, runnerSeq: 3 }],
    readers: [{ sessionId: id, name: "a reader", afterSeq: 2, events: one.events.slice(2) }],
    samples: [{ atMs: 0, calm: true, sessions: [{ id, state, epoch, last_seq, end_reason, snapshot_generation, box }], sandboxes: [] }],
    archives: [archive],
    looks: [{ sessionId: id, turn: 3, lines: ["x"] }],
    profiles: [{ ownerId: "somebody", count: 1, defaults: 1 }],
    provider: { whole: 1, begun: 1 },
  };
}

/** The only session. */
export function only(evidence: ReturnType<typeof healthy>): SessionEvidence {
  return evidence.sessions[0]!;
}

/** The log without its last events, dense and with its chain. */
export function logOf(id: string, changed: (before: readonly Line[]) => readonly Line[], facts: Partial<SessionEvidence["session"]> = {}) {
  return sessionOf(id, changed(lines), facts);
}

export function sampleOf(
  evidence: ReturnType<typeof healthy>,
  changes: Partial<Sample["sessions"][number]>,
  sample: Partial<Sample> = {},
): Sample {
  const first = evidence.samples[0]!;
  return { ...first, ...sample, sessions: first.sessions.map((session) => ({ ...session, ...changes })) };
}
