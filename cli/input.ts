import type { Session } from "../gen/carrel/v1/session_pb.ts";
import { type Carrel, messageOf, retrying } from "../sdk/node.ts";
import { type Asking, answerUnasked, createAsking } from "./answers.ts";
import type { AttachOptions } from "./attach.ts";
import type { Conversation, Pending } from "./conversation.ts";
import { type ExitCode, reportFailure } from "./failures.ts";
import { type Lines, readLines } from "./lines.ts";
import type { CommandContext } from "./program.ts";

type Deps = {
  context: CommandContext;
  carrel: Carrel;
  session: Session;
  conversation: Conversation;
  options: AttachOptions;
  leave: (code: ExitCode) => void;
};

/** What the person at the terminal, or a script in their place, says to the session. */
export type Input = {
  /** The past has been told: lines count from now on. */
  start(): void;
  /** Something changed: does what can be done now. Never rejects. */
  pump(): void;
  /** Ctrl+C: interrupts a turn under way, leaves otherwise, and leaves when pressed again. */
  interrupt(): void;
  /** A turn is under way whose beginning is not read. */
  assumeBusy(): void;
  /** Whether a prompt with this request id stands on the screen because it was typed there. */
  wasTyped(requestId: string): boolean;
  close(): void;
  /** Resolves when nothing is under way any more. */
  settled(): Promise<void>;
};

const help = "a line is a prompt · /interrupt stops the turn · /quit leaves, the session goes on · Ctrl+C interrupts, again leaves";

/**
 * On a terminal every line counts at once. Lines of a pipe wait their turn, a prompt for the turn before it and an answer
 * for its question, so that a script need not guess when to write them.
 */
export function createInput(deps: Deps): Input {
  const { context, carrel, session, conversation, options, leave } = deps;
  const { output, surroundings } = context;
  const isTerminal = surroundings.stdin.isTTY === true;
  const sessionId = session.id;
  const typed = new Set<string>();
  let asking: Asking | undefined;
  let interrupted = false;
  let busyFrom: number | undefined;
  let sent = 0;
  let closed = false;
  // Changes are worked off one after the other; one that comes meanwhile asks for another round.
  let working: Promise<void> | undefined;
  let again = false;

  let started = false;
  // Read from the beginning, so that the end of a pipe is known before anything is asked.
  const lines = options.readOnly ? undefined : readLines(surroundings.stdin, pump);

  const busy = () => conversation.busy() || busyFrom === conversation.results();

  function pump(): void {
    if (!busy()) interrupted = false;
    if (!started) return;
    again = true;
    working ??= work().finally(() => (working = undefined));
  }

  async function work(): Promise<void> {
    while (again && !closed) {
      again = false;
      try {
        while (lines && !closed && (await step(lines)));
      } catch (error) {
        reportFailure(output, error, await context.url());
        if (!isTerminal) leave(1);
      }
    }
  }

  /** Does one thing; false when there is nothing to do until something changes. */
  async function step(input: Lines): Promise<boolean> {
    const pending = options.readOnly ? undefined : conversation.next();
    if (asking && asking.pending !== pending) asking = undefined;
    if (pending && (await answeredByRule(pending, input))) return true;
    if (pending && !asking) {
      asking = createAsking({ carrel, output, sessionId }, pending);
      asking.ask();
    }
    if (isScript() && conversation.parked()) leave(1);
    const line = input.peek();
    if (line === undefined) return leaveWhenDone(input);
    if (line.trim() === "/interrupt" || (isTerminal && line.trim().startsWith("/"))) return command(input);
    if (!asking && busy() && !isTerminal) return false;
    if (asking) return answer(asking, input.take() ?? "");
    return line.trim().startsWith("/") ? command(input) : prompt(input.take() ?? "");
  }

  async function answeredByRule(pending: Pending, input: Lines): Promise<boolean> {
    const nobodyThere = options.mode === "chat" && !isTerminal && input.ended() && input.peek() === undefined;
    const rule = pending.kind === "approval" ? options.approve : undefined;
    if (rule === undefined && !nobodyThere) return false;
    await answerUnasked({ carrel, output, sessionId }, pending, rule);
    conversation.answered(pending.id);
    return true;
  }

  async function answer(current: Asking, line: string): Promise<boolean> {
    if (current.pending.kind === "question" && line.trim() === "") return true;
    if (await current.answer(line)) {
      conversation.answered(current.pending.id);
      asking = undefined;
    }
    return true;
  }

  async function command(input: Lines): Promise<boolean> {
    const word = (input.take() ?? "").trim();
    if (word === "/quit" || word === "/exit") leave(0);
    else if (word === "/interrupt") await stopTurn();
    else if (word === "/help") output.warn(help);
    else output.warn(`no such command: ${word} (${help})`);
    return true;
  }

  async function prompt(text: string): Promise<boolean> {
    if (text.trim() === "") return true;
    const requestId = crypto.randomUUID();
    if (isTerminal) typed.add(requestId);
    const { seq, queued, position } = await retrying(() => carrel.channel.sendPrompt({ sessionId, text, requestId }));
    sent++;
    conversation.accepted(seq);
    if (queued) output.notice(`queued: ${position} ${position === 1 ? "goes" : "go"} first`);
    return true;
  }

  async function stopTurn(): Promise<void> {
    const answered = await carrel.channel.interrupt({ sessionId });
    output.notice(answered.interrupted ? "interrupted" : "no turn is under way");
  }

  /** Whether nobody is there who could do more than what was asked. */
  function isScript(): boolean {
    return !isTerminal && !options.readOnly && (options.mode === "chat" || sent > 0);
  }

  function leaveWhenDone(input: Lines): false {
    if (!input.ended() || busy() || !isScript()) return false;
    if (options.asked && conversation.results() === 0) return false;
    leave(conversation.lastResult()?.success === false ? 1 : 0);
    return false;
  }

  return {
    pump,
    start() {
      started = true;
      pump();
    },
    interrupt() {
      if (options.readOnly || interrupted || !busy()) return leave(130);
      interrupted = true;
      output.notice("interrupting; Ctrl+C again leaves");
      stopTurn().catch((error: unknown) => output.warn(`cannot interrupt: ${messageOf(error)}`));
    },
    assumeBusy: () => void (busyFrom = conversation.results()),
    wasTyped: (requestId) => typed.has(requestId),
    close() {
      closed = true;
      lines?.close();
    },
    settled: async () => void (await working),
  };
}
