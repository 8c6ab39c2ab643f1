/** One session of the fake server: a log, its watchers, and a turn at a time played by a script. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { ApprovalScope, PendingOutcome } from "../../../gen/carrel/v1/approval_pb.ts";
import {
  type AnswerApprovalRequest,
  type WatchEventsResponse,
  WatchEventsResponseSchema,
} from "../../../gen/carrel/v1/channel_service_pb.ts";
import { DeltaKind, type Event, type EventPayloadSchema, EventSchema } from "../../../gen/carrel/v1/event_pb.ts";
import { type EndReason, type Session, SessionDetail, SessionStatus, UserState } from "../../../gen/carrel/v1/session_pb.ts";
import { refused } from "./refused.ts";

type Kind = NonNullable<MessageInitShape<typeof EventPayloadSchema>["kind"]>;
type Answer = { approved: boolean; message: string; answers: Record<string, string> };

/** What a script may do in a turn. */
export type Turn = {
  text: string;
  /** Says something, in pieces first. */
  say(pieces: string[], thinking?: boolean): Promise<void>;
  append(kind: Kind): void;
  /** Asks for an approval and waits. */
  approve(id: string, input: Record<string, string>): Promise<Answer>;
  question(id: string, questions: MessageInitShape<typeof EventPayloadSchema>["kind"] & { case: "askUserQuestion" }): Promise<Answer>;
  /** Waits until somebody interrupts the turn. */
  interruption: Promise<void>;
  fail(summary: string): void;
};
export type Script = (turn: Turn) => Promise<void>;

export type FakeSession = ReturnType<typeof createFakeSession>;

export function createFakeSession(session: Session, script: Script) {
  const log: Event[] = [];
  const watchers = new Set<(item: WatchEventsResponse) => void>();
  const pauses = new Map<string, { resolve: (answer: Answer) => void; close: (outcome: PendingOutcome, message?: string) => void }>();
  const queue: { seq: number; text: string }[] = [];
  let current: { seq: number; interrupt: () => void; failure?: string; interrupted: boolean } | undefined;
  let blocks = 0;

  function append(kind: Kind, turn = current?.seq ?? 0): number {
    const seq = log.length + 1;
    const event = create(EventSchema, { seq, turn, createdAt: { seconds: BigInt(1_800_000_000 + seq) }, payload: { kind } });
    log.push(event);
    session.lastSeq = seq;
    send({ case: "event", value: event });
    return seq;
  }

  function send(item: NonNullable<MessageInitShape<typeof WatchEventsResponseSchema>["item"]>): void {
    for (const watcher of watchers) watcher(create(WatchEventsResponseSchema, { item }));
  }

  function prompt(text: string, requestId = "") {
    if (session.status === SessionStatus.ENDED) throw refused("SESSION_ENDED", "the session has ended");
    const position = (current ? 1 : 0) + queue.length;
    const seq = append({ case: "user", value: { text, queued: position > 0, requestId } }, 0);
    queue.push({ seq, text });
    if (!current) void play();
    return { seq, queued: position > 0, position };
  }

  async function play(): Promise<void> {
    for (let next = queue.shift(); next && session.status !== SessionStatus.ENDED; next = queue.shift()) {
      let interrupt = () => {};
      const interruption = new Promise<void>((resolve) => (interrupt = resolve));
      current = { seq: next.seq, interrupt, interrupted: false };
      session.detail = SessionDetail.WORKING;
      append({ case: "turnStart", value: { promptSeq: next.seq } });
      await Promise.race([script(turnOf(next.text, interruption)), interruption]);
      const { failure, interrupted } = current;
      for (const { close } of pauses.values()) close(PendingOutcome.INTERRUPTED);
      append({
        case: "result",
        value: {
          success: !failure && !interrupted,
          subtype: interrupted ? "interrupted" : failure ? "error_during_execution" : "success",
          summary: failure ?? "",
          numTurns: 1,
          costUsd: 0.0125,
          durationMs: 1500,
        },
      });
      current = undefined;
      session.detail = SessionDetail.IDLE;
    }
  }

  function pause(id: string, closed: (outcome: PendingOutcome, message: string) => Kind): Promise<Answer> {
    return new Promise((resolve) => {
      pauses.set(id, {
        resolve,
        close(outcome, message = "") {
          pauses.delete(id);
          append(closed(outcome, message));
        },
      });
    });
  }

  function turnOf(text: string, interruption: Promise<void>): Turn {
    return {
      text,
      interruption,
      append: (kind) => void append(kind),
      fail: (summary) => void (current && (current.failure = summary)),
      async say(pieces, thinking = false) {
        const blockId = `block-${++blocks}`;
        let offset = 0;
        for (const piece of pieces) {
          const kind = thinking ? DeltaKind.THINKING : DeltaKind.TEXT;
          send({ case: "delta", value: { blockId, kind, text: piece, offset } });
          offset += piece.length;
          await new Promise((resolve) => setTimeout(resolve, 2));
        }
        append({ case: "assistant", value: { blockId, content: { case: thinking ? "thinking" : "text", value: pieces.join("") } } });
      },
      approve(id, input) {
        append({ case: "toolApprovalRequest", value: { toolUseId: id, toolName: "Bash", toolInput: input } });
        return pause(id, (outcome, message) => ({
          case: "toolApprovalResolved",
          value: { toolUseId: id, outcome, message, scope: ApprovalScope.ONCE, answeredBy: "you@example.com" },
        }));
      },
      question(id, asked) {
        append(asked);
        return pause(id, (outcome) => ({ case: "questionResolved", value: { questionId: id, outcome, answeredBy: "you@example.com" } }));
      },
    };
  }

  function settle(id: string, answer: Answer): void {
    const waiting = pauses.get(id);
    if (!waiting) throw refused("ALREADY_ANSWERED", "somebody answered first", { answered_by: "other@example.com", outcome: "approved" });
    waiting.close(answer.approved ? PendingOutcome.APPROVED : PendingOutcome.DENIED, answer.message);
    waiting.resolve(answer);
  }

  async function* watch(afterSeq: number, includeDeltas: boolean, signal: AbortSignal): AsyncGenerator<WatchEventsResponse> {
    const items = log.slice(afterSeq).map((event) => create(WatchEventsResponseSchema, { item: { case: "event", value: event } }));
    items.push(create(WatchEventsResponseSchema, { item: { case: "synced", value: { lastSeq: log.length } } }));
    let wake = () => {};
    const watcher = (item: WatchEventsResponse) => {
      if (item.item.case !== "delta" || includeDeltas) items.push(item);
      wake();
    };
    watchers.add(watcher);
    signal.addEventListener("abort", () => wake());
    try {
      while (!signal.aborted) {
        const rung = new Promise<void>((resolve) => (wake = resolve));
        for (let next = items.shift(); next; next = items.shift()) {
          yield next;
          if (next.item.case === "event" && next.item.value.payload?.kind.case === "sessionEnd") return;
        }
        await rung;
      }
    } finally {
      watchers.delete(watcher);
    }
  }

  return {
    session,
    log,
    append,
    prompt,
    watch,
    answerApproval: ({ toolUseId, approved, message }: AnswerApprovalRequest) => settle(toolUseId, { approved, message, answers: {} }),
    answerQuestion: (id: string, answers: Record<string, string>) => settle(id, { approved: true, message: "", answers }),
    interrupt() {
      if (current) current.interrupted = true;
      current?.interrupt();
      return current !== undefined;
    },
    end(reason: EndReason) {
      if (session.status === SessionStatus.ENDED) return;
      Object.assign(session, {
        status: SessionStatus.ENDED,
        userState: UserState.ENDED,
        detail: SessionDetail.UNSPECIFIED,
        endReason: reason,
      });
      append({ case: "sessionEnd", value: { reason } }, 0);
    },
  };
}
