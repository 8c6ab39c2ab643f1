// What may happen to a turn, as changes of its session. One turn at a time; prompts wait in the queue.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Event, TurnResultSchema, UserMessage } from "../../gen/carrel/v1/event_pb.ts";
import { requestEnd } from "./ends.ts";
import type { Change, Origin } from "./journal.ts";
import { closeOpenPauses } from "./pauses.ts";
import { isAsleep, isWokenByPrompt, placeOfPrompt, startsNextTurn, turnFinished, turnStarted, wakened } from "./rules.ts";
import { openEvent } from "./seal.ts";
import { cancelQueuedPrompt, findQueuedPrompt, listEventRows, queuePrompt, takeQueuedPrompt } from "./store.ts";

export type Accepted = { seq: number; queued: boolean; position: number };

/** Commits a prompt to the log; it starts at once when nothing goes first. */
export async function acceptPrompt(change: Change, text: string, requestId: string): Promise<Accepted> {
  const { session } = change;
  const queued = placeOfPrompt(session).position > 0;
  const seq = change.append({ case: "user", value: { text, queued, requestId } });
  if (isWokenByPrompt(session)) await wake(change);
  const { position, starts } = placeOfPrompt(session);
  if (starts) startTurn(change, seq, text);
  else {
    await queuePrompt(change.tx, session.id, seq);
    change.set({ queued_prompts: session.queued_prompts + 1 });
  }
  return { seq, queued, position };
}

/** A session with something to do is wanted awake; one that is just being put away goes on at once. */
export async function wake(change: Change): Promise<void> {
  const woken = wakened(change.session, change.now);
  change.set(woken);
  if (woken.state === "running") await goOn(change);
}

/** What a session does first whose agent was stopped to put it away: its turn, or the next one. */
export async function goOn(change: Change): Promise<void> {
  if (change.session.turn === 0) return startNextTurn(change);
  await askAgain(change, "the session was put away while somebody was asked; the agent is told to ask again");
}

/** The notice that what was unfinished of a turn is left behind, and another agent goes on. */
export const askingAgain = "asking_again";

/** Lets a new agent go on with a turn that waited for people. What the one before asked died with it. */
export async function askAgain(change: Change, message: string): Promise<void> {
  await closeOpenPauses(change, "superseded");
  change.append({ case: "system", value: { subtype: askingAgain, message } });
  continueTurn(change, asksAgain);
}

/** Said to the agent in the user's place. */
const asksAgain =
  "This session was restarted while a tool call waited for a person's answer. The call did not run. Go on with the task from there, and make the call again if it is still needed.";

/** The notice that a turn is to end, after which it is neither put away nor given to another agent. */
export const interrupting = "interrupting";

/** Stops the turn under way; without an agent to be told, it ends here. */
export async function interruptTurn(change: Change): Promise<void> {
  const { session } = change;
  if (isAsleep(session)) return finishTurn(change, { success: false, subtype: "interrupted", summary: "", numTurns: 0 });
  change.command({ case: "interrupt", value: { turn: session.turn } });
  // Should the runner be lost before it obeys, the turn ends instead of being given to the next one, also if it waits for people.
  change.append({ case: "system", value: { subtype: interrupting, message: "the turn is being interrupted" } });
  change.set({ turn_acted: true });
}

/** What became of a wish to take a prompt back: the event that records it, or why there is nothing to take. */
export type Canceled = { seq: number } | "started" | "no_prompt";

/** Takes a queued prompt out of the queue; the log says so. Once more gets the same answer. */
export async function cancelPrompt(change: Change, promptSeq: number, canceledBy: string): Promise<Canceled> {
  const { session, tx } = change;
  const queued = await findQueuedPrompt(tx, session.id, promptSeq);
  if (!queued) return (await findPrompt(change, promptSeq)) ? "started" : "no_prompt";
  if (queued.canceled_seq !== null) return { seq: queued.canceled_seq };
  const seq = change.append({ case: "promptCanceled", value: { promptSeq, canceledBy } });
  await cancelQueuedPrompt(tx, session.id, promptSeq, seq);
  change.set({ queued_prompts: session.queued_prompts - 1 });
  return { seq };
}

/** Starts the oldest queued prompt, if the session is free to. */
export async function startNextTurn(change: Change): Promise<void> {
  const { session } = change;
  if (!startsNextTurn(session)) return;
  const seq = await takeQueuedPrompt(change.tx, session.id);
  if (seq === undefined) throw new Error(`the prompt queue of ${session.id} is empty, but the session counts ${session.queued_prompts}`);
  change.set({ queued_prompts: session.queued_prompts - 1 });
  startTurn(change, seq, await promptText(change, seq));
}

/** Gives the prompt of the turn under way to a new runner: the last one was lost before it did anything with it. */
export async function repeatTurn(change: Change): Promise<void> {
  continueTurn(change, await promptText(change, change.session.turn));
}

/** Lets a new agent go on with the turn under way; `text` is what it is told. */
function continueTurn(change: Change, text: string): void {
  change.command({ case: "prompt", value: { seq: change.session.turn, text } });
}

export type TurnEnd = Pick<MessageInitShape<typeof TurnResultSchema>, "success" | "subtype" | "summary" | "numTurns">;

/** Ends the turn under way; usage and cost are the broker's. The next queued prompt follows. */
export async function finishTurn(change: Change, end: TurnEnd, origin?: Origin): Promise<void> {
  const { session } = change;
  await closeOpenPauses(change, "interrupted");
  const { cost_micros, ...tokens } = session.turn_usage;
  change.append(
    {
      case: "result",
      value: {
        success: end.success ?? false,
        subtype: end.subtype ?? "",
        summary: end.summary ?? "",
        numTurns: end.numTurns ?? 0,
        usage: usageMessage(tokens),
        costUsd: cost_micros / 1e6,
        durationMs: session.turn_started_at ? Math.max(0, change.now.getTime() - session.turn_started_at.getTime()) : 0,
      },
    },
    origin,
  );
  change.set(turnFinished(session, change.now));
  if (session.one_shot) requestEnd(change, end.success ? "completed" : "failed", end.success ? "" : (end.summary ?? ""));
  // It may have been told to rest while its turn waited for a person; now there is something to do.
  if (session.queued_prompts > 0) await wake(change);
  await startNextTurn(change);
}

/** The wire form of a tally. */
export function usageMessage(tally: {
  input_tokens: number;
  output_tokens: number;
  cache_creation_input_tokens: number;
  cache_read_input_tokens: number;
}) {
  return {
    inputTokens: tally.input_tokens,
    outputTokens: tally.output_tokens,
    cacheCreationInputTokens: tally.cache_creation_input_tokens,
    cacheReadInputTokens: tally.cache_read_input_tokens,
  };
}

function startTurn(change: Change, seq: number, text: string): void {
  change.set(turnStarted(seq, change.now));
  change.append({ case: "turnStart", value: { promptSeq: seq } });
  change.command({ case: "prompt", value: { seq, text } });
}

async function promptText(change: Change, seq: number): Promise<string> {
  const prompt = await findPrompt(change, seq);
  if (!prompt) throw new Error(`event ${seq} of ${change.session.id} is not a prompt`);
  return prompt.text;
}

async function findPrompt(change: Change, seq: number): Promise<UserMessage | undefined> {
  const [row] = await listEventRows(change.tx, change.session.id, seq - 1, 1);
  const event: Event | undefined = row && openEvent(change.vault, row);
  return event?.payload?.kind.case === "user" ? event.payload.kind.value : undefined;
}
