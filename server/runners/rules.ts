import { create, type JsonObject } from "@bufbuild/protobuf";
import { type Question, QuestionSchema } from "../../gen/carrel/v1/approval_pb.ts";
import type { EventPayload } from "../../gen/carrel/v1/event_pb.ts";
import { isOccupied, isParked, waitsForPeople } from "../journal/rules.ts";
import type { SessionCore } from "../journal/store.ts";
import type { SessionState } from "../journal/tables.ts";

/** It is kept in the session's row and handed to the next runner. */
const conversationId = /^[\x21-\x7e]{1,200}$/;

/** What a runner may report. Everything else in a log is the server's own word. */
const reportable: ReadonlySet<EventPayload["kind"]["case"]> = new Set([
  "assistant",
  "toolUse",
  "toolResult",
  "system",
  "result",
  "sessionError",
  "sdkSessionId",
]);

export function isReportable(payload: EventPayload | undefined): payload is EventPayload {
  if (payload?.kind.case === "sdkSessionId") return conversationId.test(payload.kind.value.id);
  return payload !== undefined && reportable.has(payload.kind.case);
}

/** Whether the agent has done something that must not be done twice. */
export function isAct(payload: EventPayload): boolean {
  return payload.kind.case === "assistant" || payload.kind.case === "toolUse" || payload.kind.case === "toolResult";
}

/** How many of a batch are committed already, or the number that was expected when there is a hole. */
export function alreadyCommitted(lastRunnerSeq: number, first: number, count: number): { skip: number } | { expected: number } {
  if (count === 0) return { skip: 0 };
  if (first > lastRunnerSeq + 1 || first < 1) return { expected: lastRunnerSeq + 1 };
  return { skip: Math.min(count, lastRunnerSeq + 1 - first) };
}

/** The states in which a session has no runner: its last one may still be there, and repeat itself. */
const unmanned: ReadonlySet<string> = new Set(["requested", "dormant", "ended"]);

/** Whether a runner of this epoch may still say anything: the check that fences a runner of the past. */
export function holdsLease(session: Pick<SessionCore, "epoch" | "state">, epoch: number): boolean {
  return session.epoch === epoch && !unmanned.has(session.state);
}

/**
 * Whether a sandbox over a session's box is the one that it started last. Until that is written down, it is one that was started for
 * this epoch, or that stood by, which is run 0 of its box.
 */
export function isSandboxOf(session: { handle: { id: string } | null; epoch: number }, sandbox: { id: string; run: number }): boolean {
  if (session.handle) return session.handle.id === sandbox.id;
  return sandbox.run === 0 || sandbox.run === session.epoch;
}

/** Whether a call was made in a turn that is over: its agent does not wait for an answer any more. */
export function isOfPastTurn(session: Pick<SessionCore, "turn">, turn: number): boolean {
  return turn !== 0 && turn !== session.turn;
}

/** Whether somebody else has moved a session since it was looked at; then the step that was decided on is not taken. */
export function isUnmoved(session: Pick<SessionCore, "epoch" | "state">, seen: Pick<SessionCore, "epoch" | "state">): boolean {
  return session.epoch === seen.epoch && session.state === seen.state;
}

/** Whether a session still waits for the runner that shows its attach token. */
export function awaitsRunner(session: Pick<SessionCore, "state" | "desired">): boolean {
  return session.state === "starting" && session.desired !== "end";
}

/** The snapshot that would follow the current one. */
export function nextGeneration(session: Pick<SessionCore, "snapshot_generation">): number {
  return (session.snapshot_generation ?? 0) + 1;
}

/** Whether a snapshot may become the current one: compared under the lock when it is whole. */
export function isAskedFor(session: Pick<SessionCore, "state" | "desired" | "snapshot_generation">, generation: number): boolean {
  const wanted = session.state === "ending" || (session.state === "hibernating" && session.desired === "hibernate");
  return wanted && nextGeneration(session) === generation;
}

/** Whether what is asked is still the last that was asked: a turn between two asks makes an archive old. */
export function isLastAsked(session: Pick<SessionCore, "last_command_id">, commandId: number): boolean {
  return commandId === 0 || session.last_command_id === commandId;
}

/** Whether a session may be put away now; looked at again under the lock, where it may have been asked to end meanwhile. */
export function isUnused(
  session: Pick<SessionCore, "desired" | "active_at" | "turn" | "pending_count" | "queued_prompts">,
  now: Date,
  idleMs: number,
): boolean {
  const isIdle = now.getTime() - session.active_at.getTime() >= idleMs;
  return !isOccupied(session) && (session.desired === "hibernate" || (session.desired === "run" && isIdle));
}

/** What an event says of the calls of its turn; undefined where it says nothing of them. */
export type CallNews = { turn: number; news: { begun: string } | { done: string } | "agent_replaced" | "interrupted" | undefined };

/** Stands for an end that was asked for, and is unfinished until the turn is. No call has this name. */
const interruption = "";

/** Follows which calls of a turn are unfinished. What an agent left behind is nobody's once another one was told to go on. */
export function followCalls(unfinished: Set<string>, turn: number, { turn: of, news }: CallNews): void {
  // A prompt may have waited while the turn before its own went on: not all that comes after it is of its turn.
  if (news === undefined || of !== turn) return;
  if (news === "interrupted") unfinished.add(interruption);
  else if (news === "agent_replaced") unfinished.clear();
  else if ("begun" in news) unfinished.add(news.begun);
  else unfinished.delete(news.done);
}

/** Whether people were asked and nothing else is unfinished. A sub-agent that asked is at work, which would be lost. */
export function onlyWaits(
  session: Pick<SessionCore, "turn" | "pending_count">,
  unfinished: ReadonlySet<string>,
  open: readonly { call: string; isOfSubAgent: boolean }[],
): boolean {
  if (!waitsForPeople(session) || open.some(({ isOfSubAgent }) => isOfSubAgent)) return false;
  const asked = new Set(open.map(({ call }) => call));
  return [...unfinished].every((call) => asked.has(call));
}

/**
 * What becomes of the turn of a lost runner. `onlyWaited`: people were asked, and nothing else of it was unfinished. Put away,
 * a turn waits for people and not for a runner: one that was lost while it brought the files back takes nothing with it.
 */
export function fateOfTurn(
  session: Pick<SessionCore, "turn" | "turn_acted" | "restoring">,
  onlyWaited: boolean,
): "kept" | "none" | "asked_again" | "repeated" | "interrupted" {
  if (session.restoring) return "kept";
  if (session.turn === 0) return "none";
  if (onlyWaited) return "asked_again";
  return session.turn_acted ? "interrupted" : "repeated";
}

export type Observed = {
  state: SessionState;
  desired: "run" | "hibernate" | "end" | "erase";
  /** Whether the sandbox's process is there; undefined when there is no handle. */
  sandbox: "running" | "exited" | undefined;
  /** Milliseconds until the lease or the startup deadline passes; negative once it has. */
  leaseLeftMs: number;
  /** Milliseconds since the state was entered. */
  inStateMs: number;
  /** Restarts within the window. */
  restarts: number;
  /** Whether an agent was ever ready. */
  started: boolean;
  /** Milliseconds until the session's lifetime is over. */
  lifeLeftMs: number;
  /** Whether files, a socket or a sandbox are there. */
  box: boolean;
  /** Whether what was put away is still to be brought back. */
  restoring: boolean;
  /** Whether a turn is under way, a prompt waits, or a person is asked. */
  occupied: boolean;
  /** Milliseconds until a session that nothing happens in is put away. */
  idleLeftMs: number;
  /** Milliseconds until a step is tried again; not above zero where none has failed. */
  retryLeftMs: number;
  /** Whether it is left alone until somebody asks for it. */
  parked: boolean;
};

/** What of the observed is not in the row. Times in milliseconds. */
export type Surroundings = {
  now: number;
  sandbox: Observed["sandbox"];
  /** Left of the grace that a server has which could not see for a while; below zero where there is none. */
  graceLeftMs: number;
  restartWindowMs: number;
  idleMs: number;
};

type ObservedRow = Pick<
  SessionCore,
  | "state"
  | "desired"
  | "state_since"
  | "lease_until"
  | "restarts"
  | "restarts_since"
  | "started_at"
  | "ends_at"
  | "box"
  | "restoring"
  | "turn"
  | "pending_count"
  | "queued_prompts"
  | "active_at"
  | "retry_at"
  | "parked_at"
>;

export function observed(session: ObservedRow, { now, sandbox, graceLeftMs, restartWindowMs, idleMs }: Surroundings): Observed {
  const inWindow = session.restarts_since !== null && now - session.restarts_since.getTime() < restartWindowMs;
  return {
    state: session.state,
    desired: session.desired,
    sandbox,
    leaseLeftMs: Math.max((session.lease_until?.getTime() ?? 0) - now, graceLeftMs),
    inStateMs: now - session.state_since.getTime(),
    restarts: inWindow ? session.restarts : 0,
    started: session.started_at !== null,
    lifeLeftMs: session.ends_at === null ? Number.POSITIVE_INFINITY : session.ends_at.getTime() - now,
    box: session.box !== null,
    restoring: session.restoring,
    occupied: isOccupied(session),
    idleLeftMs: session.active_at.getTime() + idleMs - now,
    retryLeftMs: session.retry_at === null ? 0 : session.retry_at.getTime() - now,
    parked: isParked(session),
  };
}

export type Step =
  | "launch"
  | "recover"
  | "give_up"
  | "give_up_restore"
  | "startup_timeout"
  | "expire"
  | "hibernate"
  | "stay_awake"
  | "clear"
  | "wake"
  | "ask_to_end"
  | "force_end"
  | "erase"
  | "wait";

export type Deadlines = {
  endGraceMs: number;
  maxRestarts: number;
  /** Time to put a session away, and to bring it back. */
  archiveTimeoutMs: number;
};

/** The next step from what is observed to what is wanted (design D9), unless it failed before and is not to be tried now. */
export function nextStep(observed: Observed, deadlines: Deadlines): Step {
  const step = stepTowards(observed, deadlines);
  const isLeft = observed.retryLeftMs > 0 || (observed.parked && isParkable(step, observed));
  return isLeft ? "wait" : step;
}

/** Whether a wait says nothing of how the session is: something may have to be done that is not to be tried now. */
export function isHeld({ retryLeftMs, parked }: Pick<Observed, "retryLeftMs" | "parked">): boolean {
  return retryLeftMs > 0 || parked;
}

/**
 * Whether a session has got further since a step failed that was decided on when it was as `seen`. A launch goes through
 * `starting` with an epoch of its own, and back with another.
 */
export function hasGotFurther(
  session: Pick<SessionCore, "epoch" | "state">,
  seen: Pick<SessionCore, "epoch" | "state">,
  step: Step,
): boolean {
  if (step !== "launch") return !isUnmoved(session, seen);
  return session.epoch > seen.epoch + 2 || (session.state !== "requested" && session.state !== "starting");
}

/** A session whose steps keep failing is tried again this often at the least, until it is parked. */
const mostPauseMs = 30_000;
const firstPauseMs = 500;

/** What a session has to have failed for before it is parked: a machine that is away for a minute parks nobody. */
export const parkAfterMs = 600_000;

export type Tries = {
  /** Failures in a row of which a session is parked, */
  stepTries: number;
  /** once this has passed since the first of them; milliseconds. */
  parkAfterMs: number;
};

/** What comes of a step that failed. `random` from 0 to 1: sessions that failed together are not tried together. */
export function setback(
  session: Pick<SessionCore, "failures" | "failing_since" | "desired" | "parked_at">,
  step: Step,
  tries: Tries,
  { now, random }: { now: number; random: number },
) {
  const failures = session.failures + 1;
  const pauseMs = Math.min(mostPauseMs, firstPauseMs * 2 ** (failures - 1)) * (0.5 + random / 2);
  const isOver = failures >= tries.stepTries && now - (session.failing_since?.getTime() ?? now) >= tries.parkAfterMs;
  return { failures, pauseMs, parks: isOver && !isParked(session) && isParkable(step, session) };
}

const endings: ReadonlySet<Step> = new Set<Step>(["give_up", "startup_timeout", "expire", "ask_to_end", "force_end", "erase"]);

/** Who is to end is never parked; nor is who sleeps, for whose owner it is nothing that the sandbox it had cannot be removed. */
function isParkable(step: Step, { desired }: Pick<Observed, "desired">): boolean {
  if (desired === "end" || desired === "erase" || endings.has(step)) return false;
  return step !== "clear" || desired === "run";
}

function stepTowards(observed: Observed, deadlines: Deadlines): Step {
  if (observed.desired === "erase") return "erase";
  if (observed.state === "ended") return "wait";
  if (observed.desired === "end") return endStep(observed, deadlines);
  if (observed.lifeLeftMs < 0) return "expire";
  if (observed.state === "dormant") return dormantStep(observed);
  if (observed.state === "requested") return "launch";
  // A start is one look of the only process that starts it: seen by another look without a sandbox, it came to nothing.
  const cameToNothing = observed.state === "starting" && observed.sandbox === undefined;
  const lost = observed.sandbox === "exited" || observed.leaseLeftMs < 0 || cameToNothing;
  if (!lost) return livingStep(observed, deadlines);
  if (observed.restoring) return retry(observed, deadlines, "give_up_restore");
  if (!observed.started && observed.state === "starting")
    return observed.sandbox === "running" ? "startup_timeout" : retry(observed, deadlines, "startup_timeout");
  return retry(observed, deadlines, "give_up");
}

function livingStep(observed: Observed, deadlines: Deadlines): Step {
  const late = observed.inStateMs >= deadlines.archiveTimeoutMs;
  if (observed.state === "starting" && observed.restoring && late) return "give_up_restore";
  if (observed.state === "hibernating" && late) return "stay_awake";
  const unwanted = observed.desired === "hibernate" || observed.idleLeftMs < 0;
  return observed.state === "running" && unwanted && !observed.occupied ? "hibernate" : "wait";
}

/** Its sandbox is ended only now, when the snapshot is committed; and it is brought back only into a new one. */
function dormantStep(observed: Observed): Step {
  if (observed.box) return "clear";
  return observed.desired === "run" ? "wake" : "wait";
}

function retry(observed: Observed, deadlines: Deadlines, otherwise: Step): Step {
  return observed.restarts < deadlines.maxRestarts ? "recover" : otherwise;
}

function endStep(observed: Observed, deadlines: Deadlines): Step {
  const attached = observed.state === "running" || observed.state === "hibernating";
  if (observed.sandbox !== "running" || observed.state !== "ending") return attached ? "ask_to_end" : "force_end";
  return observed.inStateMs >= deadlines.endGraceMs ? "force_end" : "wait";
}

/** The agent's own question tool, as people are shown it. */
export function questionOf(toolUseId: string, input: JsonObject): Question {
  const items = Array.isArray(input["questions"]) ? input["questions"] : [];
  return create(QuestionSchema, {
    questionId: toolUseId,
    questions: items.filter(isObject).map((item) => ({
      question: text(item["question"]),
      header: text(item["header"]),
      multiSelect: item["multiSelect"] === true,
      options: (Array.isArray(item["options"]) ? item["options"] : []).map((option) =>
        isObject(option) ? { label: text(option["label"]), description: text(option["description"]) } : { label: text(option) },
      ),
    })),
  });
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function text(value: unknown): string {
  return typeof value === "string" ? value : value === undefined || value === null ? "" : JSON.stringify(value);
}
