import type { Approval, Question } from "../gen/carrel/v1/approval_pb.ts";
import type { Event, SessionEnd, TurnResult } from "../gen/carrel/v1/event_pb.ts";
import { SessionDetail } from "../gen/carrel/v1/session_pb.ts";

/** Something that waits for a person. */
export type Pending = { kind: "approval"; id: string; approval: Approval } | { kind: "question"; id: string; question: Question };

/** Where a conversation stands, as its events tell. */
export type Conversation = {
  see(event: Event): void;
  /** A prompt of ours was committed as this event, which may not have been seen yet. */
  accepted(seq: number): void;
  /** Something waits for a person; told by the server instead of by an event. */
  wait(pending: Pending): void;
  /** Closed here; its event will follow. */
  answered(id: string): void;
  /** The oldest thing that waits for a person. */
  next(): Pending | undefined;
  /** Whether a prompt is being worked on or waits to be. */
  busy(): boolean;
  /** Whether nothing goes on before somebody asks for it: the session could not be started or brought back. */
  parked(): boolean;
  /** Turns that ended. */
  results(): number;
  lastResult(): TurnResult | undefined;
  end(): SessionEnd | undefined;
};

const parking = new Set(["parked", "resume_failed"]);
const resting = new Set<SessionDetail>([SessionDetail.BLOCKED, SessionDetail.DORMANT]);

export function createConversation(): Conversation {
  const open = new Map<string, Pending>();
  const closed = new Set<string>();
  // By the number of the prompt.
  const unfinished = new Set<number>();
  const finished = new Set<number>();
  let results = 0;
  let lastResult: TurnResult | undefined;
  let end: SessionEnd | undefined;
  let parked = false;

  function accepted(seq: number): void {
    parked = false;
    if (!finished.has(seq)) unfinished.add(seq);
  }

  function over(prompt: number): void {
    finished.add(prompt);
    unfinished.delete(prompt);
  }

  function wait(pending: Pending): void {
    if (!closed.has(pending.id)) open.set(pending.id, pending);
  }

  function answered(id: string): void {
    closed.add(id);
    open.delete(id);
  }

  function see({ seq, turn, payload }: Event): void {
    const kind = payload?.kind;
    switch (kind?.case) {
      case "user":
        return accepted(seq);
      case "turnStart":
        return accepted(kind.value.promptSeq);
      case "promptCanceled":
        return over(kind.value.promptSeq);
      case "system":
        parked ||= parking.has(kind.value.subtype);
        return;
      case "sessionStatus":
        parked &&= resting.has(kind.value.detail);
        return;
      case "result":
        lastResult = kind.value;
        results++;
        return over(turn);
      case "toolApprovalRequest":
        return wait({ kind: "approval", id: kind.value.toolUseId, approval: kind.value });
      case "askUserQuestion":
        return wait({ kind: "question", id: kind.value.questionId, question: kind.value });
      case "toolApprovalResolved":
        return answered(kind.value.toolUseId);
      case "questionResolved":
        return answered(kind.value.questionId);
      case "sessionEnd":
        end = kind.value;
        open.clear();
        unfinished.clear();
    }
  }

  return {
    see,
    accepted,
    wait,
    answered,
    next: () => open.values().next().value,
    busy: () => unfinished.size > 0,
    parked: () => parked,
    results: () => results,
    lastResult: () => lastResult,
    end: () => end,
  };
}
