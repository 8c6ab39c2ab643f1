// Invariants of sessions: states, caps, money, and that everything comes to rest.
import type { Event } from "../../../gen/carrel/v1/event_pb.ts";
import { SessionDetail } from "../../../gen/carrel/v1/session_pb.ts";
import type { SessionState, UsageTally } from "../../../server/journal/tables.ts";
import { checkEnd } from "../../support/log-rules.ts";
import type { Evidence, SessionEvidence } from "./evidence.ts";
import { perSession } from "./log-invariants.ts";
import { type Find, found } from "./violation.ts";

const { PROVISIONING, WORKING, RECOVERING, IDLE, BLOCKED, RESTORING, DORMANT } = SessionDetail;

/** What people may be shown next; the end may follow everything and is judged apart. */
const awake = [WORKING, IDLE, BLOCKED];
const next: Partial<Record<SessionDetail, readonly SessionDetail[]>> = {
  [PROVISIONING]: [...awake, RECOVERING],
  [WORKING]: [...awake, RECOVERING],
  [IDLE]: [...awake, RECOVERING, DORMANT],
  [BLOCKED]: [...awake, RECOVERING, DORMANT],
  [RECOVERING]: awake,
  [RESTORING]: [...awake, DORMANT],
  [DORMANT]: [RESTORING],
};

export const edges: Find = (evidence) => [
  ...found(
    "broken",
    perSession(evidence, ({ events }) => badEdges(events)),
  ),
  ...found(
    "broken",
    perSession(evidence, ({ session, events }) => checkEnd(events, session.state === "ended")),
  ),
  ...found("broken", [...changesAfterTheEnd(evidence), ...backwards(evidence)]),
];

function badEdges(events: readonly Event[]): string[] {
  const shown = events.flatMap(({ payload }) => (payload?.kind.case === "sessionStatus" ? [payload.kind.value.detail] : []));
  return shown.flatMap((detail, index) => {
    const before = shown[index - 1];
    if (before === undefined || before === detail || next[before]?.includes(detail)) return [];
    return [`went from detail ${before} to ${detail}`];
  });
}

function changesAfterTheEnd({ samples, sessions }: Evidence): string[] {
  return samples.flatMap((sample) =>
    sample.sessions
      .filter(({ state }) => state === "ended")
      .flatMap((then) => {
        const now = sessions.find(({ session }) => session.id === then.id)?.session;
        const same = now?.state === "ended" && now.end_reason === then.end_reason && now.last_seq === then.last_seq;
        return same ? [] : [`${then.id}: had ended with ${then.end_reason} and was changed afterwards`];
      }),
  );
}

/** What only grows. */
function backwards({ samples }: Evidence): string[] {
  return samples.flatMap(({ sessions }, index) =>
    sessions.flatMap((now) => {
      const then = samples[index - 1]?.sessions.find(({ id }) => id === now.id);
      if (!then) return [];
      const shrunk = (["epoch", "last_seq", "snapshot_generation"] as const).filter((name) => (now[name] ?? 0) < (then[name] ?? 0));
      return shrunk.map((name) => `${now.id}: ${name} went from ${then[name]} to ${now[name]}`);
    }),
  );
}

export const withinCaps: Find = ({ samples, sessions, profiles, limits }) => {
  const owners = new Map(sessions.map(({ session }) => [session.id, session.owner_id]));
  const crowds = samples.flatMap((sample) => {
    const alive = Map.groupBy(
      sample.sessions.filter(({ state }) => state !== "ended"),
      ({ id }) => owners.get(id) ?? "somebody",
    );
    return [...alive].flatMap(([owner, theirs]) =>
      theirs.length > limits.concurrentSessions ? [`${owner} had ${theirs.length} sessions at once, of ${limits.concurrentSessions}`] : [],
    );
  });
  const bad = profiles.flatMap(({ ownerId, count, defaults }) => [
    ...(count > limits.profiles ? [`${ownerId} has ${count} profiles, of ${limits.profiles}`] : []),
    ...(defaults === 1 ? [] : [`${ownerId} has ${defaults} default profiles`]),
  ]);
  return found("broken", [...new Set(crowds), ...bad]);
};

const graceMs = 10_000;

export const withinBudget: Find = (evidence) => found("broken", perSession(evidence, overspent));

function overspent({ session, events }: SessionEvidence): string[] {
  const { max_budget_micros: budget, max_turns: turns, usage, model_requests, ttl_seconds, created_at, terminated_at } = session;
  const largest = Math.max(0, ...costs(events));
  const lifeMs = (terminated_at?.getTime() ?? 0) - created_at.getTime();
  return [
    ...(budget !== null && usage.cost_micros > budget + largest
      ? [`spent ${usage.cost_micros} of ${budget}, more than one answer over`]
      : []),
    ...(turns !== null && model_requests > turns ? [`asked the model ${model_requests} times, of ${turns}`] : []),
    ...(ttl_seconds !== null && lifeMs > ttl_seconds * 1000 + graceMs ? [`lived ${lifeMs} ms, of ${ttl_seconds} s`] : []),
  ];
}

function costs(events: readonly Event[]): number[] {
  return events.flatMap(({ payload }) => (payload?.kind.case === "usageDelta" ? [Math.round(payload.kind.value.costUsd * 1e6)] : []));
}

const counts = ["input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"] as const;

export const ledgerAgrees: Find = (evidence) => {
  const booked = evidence.sessions.flatMap(({ events }) => costs(events)).length;
  const more = booked > evidence.provider.begun ? [`${booked} answers were billed, and the model began ${evidence.provider.begun}`] : [];
  return [...found("broken", perSession(evidence, unequal)), ...found("doubled", more)];
};

/** The tally of a session is the sum of its log; what came in after its end counts without an event. */
function unequal({ session, events }: SessionEvidence): string[] {
  const sum = tallyOf(events);
  return counts.flatMap((name) => {
    const [told, logged] = [session.usage[name], sum[name]];
    const fits = session.state === "ended" ? told >= logged : told === logged;
    return fits ? [] : [`counts ${told} ${name}, its log ${logged}`];
  });
}

function tallyOf(events: readonly Event[]): Omit<UsageTally, "cost_micros"> {
  const sum = { input_tokens: 0, output_tokens: 0, cache_creation_input_tokens: 0, cache_read_input_tokens: 0 };
  for (const { payload } of events) {
    if (payload?.kind.case !== "usageDelta") continue;
    const { usage } = payload.kind.value;
    sum.input_tokens += usage?.inputTokens ?? 0;
    sum.output_tokens += usage?.outputTokens ?? 0;
    sum.cache_creation_input_tokens += usage?.cacheCreationInputTokens ?? 0;
    sum.cache_read_input_tokens += usage?.cacheReadInputTokens ?? 0;
  }
  return sum;
}

/** States in which nothing is on its way anywhere. */
const atRest: readonly SessionState[] = ["running", "dormant", "ended"];

/** The most each wait may be, in milliseconds (assurance §4.6). */
export const longest = { converged: 60_000, spools: 30_000, readers: 5_000, drain: 30_000 } as const;

function tooLong(evidence: Evidence, wait: keyof typeof longest): ReturnType<Find> {
  const ms = evidence.waits[wait];
  return ms <= longest[wait] ? [] : found("stuck", [`${wait}: ${Math.round(ms)} ms after the last fault, at most ${longest[wait]}`]);
}

export const converges: Find = (evidence) => [
  ...tooLong(evidence, "converged"),
  ...found(
    "stuck",
    perSession(evidence, ({ session }) => (atRest.includes(session.state) ? [] : [`is still ${session.state}`])),
  ),
];
export const spoolsDrain: Find = (evidence) => tooLong(evidence, "spools");
export const readersCatchUp: Find = (evidence) => tooLong(evidence, "readers");
export const nothingStuck: Find = ({ stuck }) => found("stuck", stuck);
export const drains: Find = (evidence) => tooLong(evidence, "drain");
