import { create, type JsonObject } from "@bufbuild/protobuf";
import { type Question, QuestionSchema } from "../../gen/carrel/v1/approval_pb.ts";
import type { EventPayload } from "../../gen/carrel/v1/event_pb.ts";
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

export type Observed = {
  state: SessionState;
  desired: "run" | "hibernate" | "end";
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
};

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
  | "wait";

export type Deadlines = {
  endGraceMs: number;
  maxRestarts: number;
  /** Time to put a session away, and to bring it back. */
  archiveTimeoutMs: number;
};

/** The next step from what is observed to what is wanted (design D9). Level-triggered: it remembers nothing. */
export function nextStep(observed: Observed, deadlines: Deadlines): Step {
  if (observed.state === "ended") return "wait";
  if (observed.desired === "end") return endStep(observed, deadlines);
  if (observed.lifeLeftMs < 0) return "expire";
  if (observed.state === "dormant") return dormantStep(observed);
  if (observed.state === "requested") return "launch";
  // A start whose sandbox is not known yet is under way: its deadline decides.
  const lost = observed.sandbox === "exited" || observed.leaseLeftMs < 0;
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
