import { EndReason, type Session, SessionDetail, SessionStatus } from "../gen/carrel/v1/session_pb.ts";
import { type Carrel, messageOf, type WatchItem } from "../sdk/node.ts";
import { createConversation } from "./conversation.ts";
import type { ExitCode } from "./failures.ts";
import { createInput } from "./input.ts";
import { createLiveOutput } from "./output-live.ts";
import type { CommandContext } from "./program.ts";

/** How approvals are answered without asking. */
export type ApprovePolicy = "all" | "none";

export type AttachOptions = {
  /** A chat belongs to whoever started it; others may be there when one attaches. */
  mode: "chat" | "attach";
  /** The session was created with a prompt. */
  asked: boolean;
  approve?: ApprovePolicy | undefined;
  verbose?: boolean;
  raw?: boolean;
  readOnly?: boolean;
  skipHistory?: boolean;
};

/** A script does not wait for a server that stays away; a person may press Ctrl+C. */
const scriptPatienceMs = 120_000;

/** Follows a session on the terminal and passes on what is typed there, until it ends or the person leaves. */
export async function attach(context: CommandContext, carrel: Carrel, session: Session, options: AttachOptions): Promise<ExitCode> {
  const { output, surroundings } = context;
  const leaving = new AbortController();
  const conversation = createConversation();
  let left: ExitCode | undefined;
  const leave = (code: ExitCode) => {
    left ??= code;
    leaving.abort();
  };
  const input = createInput({ context, carrel, session, conversation, options, leave });
  const live = createLiveOutput(output, {
    sessionId: session.id,
    raw: options.raw === true || output.json,
    verbose: options.verbose ?? false,
    quiet: output.quiet,
    now: surroundings.now,
    isShown: ({ payload }) => payload?.kind.case === "user" && input.wasTyped(payload.kind.value.requestId),
  });
  const giveBackInterrupt = surroundings.onInterrupt(input.interrupt);
  if (session.demo) output.warn({ style: "banner", text: "demo: answers come from a scripted model, not from a real one" });
  const skipHistory = options.skipHistory === true && session.status !== SessionStatus.ENDED;
  if (options.mode === "attach" && !skipHistory) output.notice({ style: "dim", text: `--- History (${session.lastSeq} events) ---` });
  try {
    const items = carrel.watch(session.id, {
      afterSeq: skipHistory ? session.lastSeq : 0,
      includeDeltas: !options.raw && !output.json,
      signal: leaving.signal,
      ...(surroundings.stdin.isTTY ? {} : { giveUpAfterMs: scriptPatienceMs }),
      onReconnecting: ({ attempt, error }) =>
        attempt === 1 ? output.notice({ style: "dim", text: `connection lost (${messageOf(error)}); connecting again` }) : undefined,
      onReconnected: () => output.notice({ style: "dim", text: "connected again" }),
    });
    if (skipHistory && session.detail === SessionDetail.WORKING) input.assumeBusy();
    for await (const item of items) await show(item);
  } finally {
    giveBackInterrupt();
    input.close();
    live.finish();
  }
  await input.settled();
  return finish();

  async function show(item: WatchItem): Promise<void> {
    if (item.kind === "delta") return live.delta(item.delta);
    if (item.kind === "event") {
      conversation.see(item.event);
      live.event(item.event);
      return input.pump();
    }
    if (options.mode === "attach") output.notice({ style: "dim", text: "--- Live stream ---" });
    if (skipHistory) await findPending();
    input.start();
  }

  /** What waits for a person was announced before the first event we read. */
  async function findPending(): Promise<void> {
    const { approvals, questions } = await carrel.channel.listPending({ sessionId: session.id });
    for (const approval of approvals) conversation.wait({ kind: "approval", id: approval.toolUseId, approval });
    for (const question of questions) conversation.wait({ kind: "question", id: question.questionId, question });
  }

  function finish(): ExitCode {
    const end = conversation.end();
    if (end) return isFailure(end.reason) || (options.asked && conversation.results() === 0) ? 1 : 0;
    if (session.status !== SessionStatus.ENDED) {
      output.notice({ style: "dim", text: `left ${session.id}, which goes on; come back with: carrel session attach ${session.id}` });
    }
    return left ?? 0;
  }
}

function isFailure(reason: EndReason): boolean {
  return reason === EndReason.FAILED || reason === EndReason.STARTUP_TIMEOUT || reason === EndReason.HEARTBEAT_STALE;
}
