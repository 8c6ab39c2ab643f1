// Invariants of logs: what is told, numbered, ordered and shown. Each finds the violations in a history, or none.
import { equals } from "@bufbuild/protobuf";
import { type Event, EventSchema } from "../../../gen/carrel/v1/event_pb.ts";
import {
  checkChain,
  checkDense,
  checkEpochs,
  checkPauses,
  checkRunnerNumbersOnce,
  checkRunnerOrder,
  checkTurns,
} from "../../support/log-rules.ts";
import type { Call, Evidence, ReaderView, SessionEvidence } from "./evidence.ts";
import { type Find, found } from "./violation.ts";

export const durable: Find = (evidence) => {
  const problems = evidence.calls.flatMap((call) => {
    if (call.outcome !== "acknowledged" || call.method !== "SendPrompt") return [];
    const event = eventsOf(evidence, call.sessionId)?.find(({ seq }) => seq === call.seq);
    const isIt = event?.payload?.kind.case === "user" && event.payload.kind.value.requestId === call.requestId;
    return isIt ? [] : [`${call.sessionId}: the acknowledged prompt ${call.requestId} is not event ${call.seq}`];
  });
  const made = evidence.calls.flatMap(({ outcome, made: id, method }) =>
    outcome === "acknowledged" && id !== undefined && !sessionOf(evidence, id) ? [`${method} answered ${id}, which is not there`] : [],
  );
  const reports = evidence.reported.flatMap(({ sessionId, epoch, runnerSeq }) => {
    const rows = sessionOf(evidence, sessionId)?.rows ?? [];
    if (rows.some((row) => row.epoch === epoch && row.runner_seq === runnerSeq)) return [];
    return [`${sessionId}: the runner's event ${epoch}/${runnerSeq} was acknowledged and is not in the log`];
  });
  return found("lost", [...problems, ...made, ...reports]);
};

export const once: Find = (evidence) => [
  ...found(
    "doubled",
    perSession(evidence, ({ rows }) => checkRunnerNumbersOnce(rows)),
  ),
  ...found("doubled", evidence.looks.flatMap(repeatedLines)),
];

function repeatedLines({ sessionId, turn, lines }: Evidence["looks"][number]): string[] {
  const twice = lines.filter((line, index) => lines.indexOf(line) !== index);
  return twice.length === 0 ? [] : [`${sessionId}: the work of ${twice.join(", ")} was done twice, as turn ${turn} found`];
}

export const dense: Find = (evidence) => [
  ...found(
    "hole",
    perSession(evidence, ({ rows, session }) => checkDense(rows, session.last_seq)),
  ),
  ...found(
    "broken",
    perSession(evidence, ({ rows, session }) => checkChain(rows, session.chain)),
  ),
];

export const ordered: Find = (evidence) =>
  found(
    "broken",
    perSession(evidence, ({ rows }) => checkRunnerOrder(rows)),
  );

export const epochsGrow: Find = (evidence) =>
  found(
    "broken",
    perSession(evidence, ({ rows }) => checkEpochs(rows)),
  );

export const singleWriter: Find = (evidence) => {
  const late = evidence.samples.flatMap(({ sessions }) =>
    sessions.flatMap(({ id, epoch, last_seq }) =>
      (sessionOf(evidence, id)?.rows ?? [])
        .filter((row) => row.seq > last_seq && row.epoch < epoch)
        .map((row) => `${id}: event ${row.seq} is of epoch ${row.epoch}, written after epoch ${epoch} had begun`),
    ),
  );
  const snapshots = perSession(evidence, ({ snapshots: kept }) =>
    kept.flatMap(({ generation, epoch }, index) =>
      epoch < (kept[index - 1]?.epoch ?? 0) ? [`snapshot ${generation} is of an earlier epoch than the one before`] : [],
    ),
  );
  const zombies = evidence.zombies.flatMap(({ sessionId, what, accepted }) =>
    accepted ? [`${sessionId}: ${what} of a runner that was replaced was accepted`] : [],
  );
  return found("broken", [...new Set(late), ...snapshots, ...zombies]);
};

export const promptsOnce: Find = (evidence) => {
  const calls = Map.groupBy(
    evidence.calls.filter(({ method }) => method === "SendPrompt"),
    ({ sessionId }) => sessionId,
  );
  const counted = perSession(evidence, ({ session, events }) => countPrompts(events, calls.get(session.id) ?? []));
  return [...found("doubled", counted), ...found("broken", disagreements(evidence.calls))];
};

function countPrompts(events: readonly Event[], calls: readonly Call[]): string[] {
  const ids = events.flatMap(({ payload }) =>
    payload?.kind.case === "user" && payload.kind.value.requestId ? [payload.kind.value.requestId] : [],
  );
  const possible = new Set(calls.filter(({ outcome }) => outcome !== "failed").map(({ requestId }) => requestId));
  return [...new Set(ids)].flatMap((id) => {
    const times = ids.filter((one) => one === id).length;
    if (times > 1) return [`the prompt ${id} is in the log ${times} times`];
    return possible.has(id) || calls.length === 0 ? [] : [`the prompt ${id} is in the log, and was refused or never sent`];
  });
}

/** One request id has one content and one answer. */
function disagreements(calls: readonly Call[]): string[] {
  const answered = calls.filter(({ outcome, requestId }) => outcome === "acknowledged" && requestId !== "");
  return [...Map.groupBy(answered, ({ method, requestId }) => `${method} ${requestId}`)].flatMap(([key, same]) => {
    const answers = new Set(same.map(({ seq, made }) => `${seq ?? ""} ${made ?? ""}`));
    const contents = new Set(same.map(({ content }) => content));
    return [
      ...(answers.size > 1 ? [`${key} got ${answers.size} different answers`] : []),
      ...(contents.size > 1 ? [`${key} was accepted with ${contents.size} different contents`] : []),
    ];
  });
}

export const readersAgree: Find = (evidence) =>
  evidence.readers.flatMap((reader) => judgeReader(reader, eventsOf(evidence, reader.sessionId) ?? []));

function judgeReader({ sessionId, name, afterSeq, events }: ReaderView, log: readonly Event[]) {
  const who = `${sessionId}: ${name}`;
  const hole = events.find(({ seq }, index) => seq !== afterSeq + index + 1);
  if (hole) return found("hole", [`${who} was shown ${hole.seq} where ${afterSeq + events.indexOf(hole) + 1} was next`]);
  const false_ = events.find((event) => !isSame(event, log[event.seq - 1]));
  if (false_) return found("broken", [`${who} was shown an event ${false_.seq} that is not the log's`]);
  const missed = log.length - afterSeq - events.length;
  return missed > 0 ? found("lost", [`${who} was not shown the last ${missed} events`]) : [];
}

function isSame(one: Event, other: Event | undefined): boolean {
  return other !== undefined && equals(EventSchema, one, other);
}

export const turnsFollow: Find = (evidence) =>
  found(
    "broken",
    perSession(evidence, ({ session, events }) => [...checkTurns(events, session.state === "ended"), ...checkPauses(events)]),
  );

export function sessionOf(evidence: Evidence, id: string): SessionEvidence | undefined {
  return evidence.sessions.find(({ session }) => session.id === id);
}

function eventsOf(evidence: Evidence, id: string): readonly Event[] | undefined {
  return sessionOf(evidence, id)?.events;
}

export function perSession(evidence: Evidence, judge: (one: SessionEvidence) => string[]): string[] {
  return evidence.sessions.flatMap((one) => judge(one).map((problem) => `${one.session.id}: ${problem}`));
}
