// What a runner reports becomes part of the log in this one way, whether it says so itself or left it behind in its spool.
import type { RunnerEvent } from "../../gen/carrel/runner/v1/runner_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { TurnResult } from "../../gen/carrel/v1/event_pb.ts";
import { refusal } from "../errors.ts";
import type { Change, Origin } from "../journal/journal.ts";
import { finishTurn } from "../journal/turns.ts";
import { alreadyCommitted, isAct, isReportable } from "./rules.ts";

/** Events in the runner's order; `firstRunnerSeq` is the runner's own number of the first. */
export type Report = { firstRunnerSeq: number; events: readonly RunnerEvent[] };

/** A turn is billed before it ends: who gets such a report waits until the bill is in. */
export function endsTurn({ events }: Report): boolean {
  return events.some(({ payload }) => payload?.kind.case === "result");
}

/** Adds each event once. SEQUENCE_GAP names the number that is expected; a kind that is not the runner's is INVALID_ARGUMENT. */
export async function report(change: Change, { firstRunnerSeq, events }: Report): Promise<void> {
  const { session } = change;
  const place = alreadyCommitted(session.last_runner_seq, firstRunnerSeq, events.length);
  if ("expected" in place) {
    throw refusal(ErrorReason.SEQUENCE_GAP, "the batch does not follow what is committed", { expected: String(place.expected) });
  }
  for (const [index, { payload, createdAtMs }] of events.entries()) {
    if (index < place.skip) continue;
    if (!isReportable(payload)) throw refusal(ErrorReason.INVALID_ARGUMENT, "a runner may not report this kind of event");
    const origin = { runnerSeq: firstRunnerSeq + index, createdAt: plausible(createdAtMs, change.now) };
    if (payload.kind.case === "result") await finishOrIgnore(change, payload.kind.value, origin);
    else {
      if (isAct(payload) && !session.turn_acted) change.set({ turn_acted: true });
      // What the agent does in the background between turns is no idle time.
      if (session.turn === 0) change.set({ active_at: change.now });
      if (payload.kind.case === "sdkSessionId") change.set({ sdk_session_id: payload.kind.value.id });
      change.appendPayload(payload, origin);
    }
    change.set({ last_runner_seq: origin.runnerSeq });
  }
}

/** A result outside a turn has nothing to end; it stays in the log as a notice. */
async function finishOrIgnore(change: Change, result: TurnResult, origin: Origin): Promise<void> {
  if (change.session.turn > 0) return finishTurn(change, result, origin);
  change.append({ case: "system", value: { subtype: "result_outside_turn", message: result.summary } }, origin);
}

/** The runner's clock, unless it cannot be right: within a day of the database's. */
function plausible(milliseconds: number, now: Date): Date {
  return Math.abs(milliseconds - now.getTime()) < 86_400_000 ? new Date(milliseconds) : now;
}
