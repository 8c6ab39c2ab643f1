import type { ConnectError } from "@connectrpc/connect";
import type { WebSocket } from "ws";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../../errors.ts";
import type { User } from "../../identity/principal.ts";
import type { JournalReader } from "../../journal/reader.ts";
import type { FairShare } from "../../limits/fair-share.ts";
import type { Log } from "../../log.ts";
import type { ChannelActions } from "../actions.ts";
import { type ClientEnvelope, type ClientFrame, type ClientFrameReader, echoOf } from "./client-frames.ts";
import { closeCodeOf, closeCodes, closeReason, isFault, refusalOf } from "./closing.ts";
import { sendFeed } from "./feed-out.ts";
import type { Attachment } from "./handshake.ts";
import { receive } from "./inbox.ts";
import type { SocketLimits } from "./limits.ts";
import { keepAlive } from "./liveness.ts";
import { createOutbox, type Outbox } from "./outbox.ts";
import { errorFrame, promptQueuedFrame, type ServerFrames } from "./server-frames.ts";

export type ConnectionDeps = {
  reader: Pick<JournalReader, "watch">;
  actions: ChannelActions;
  share: FairShare;
  clientFrames: ClientFrameReader;
  serverFrames: ServerFrames;
  limits: SocketLimits;
  log: Log;
  /** Aborts with `signal`, or with the reason why this person may not stay connected any longer. */
  whileAllowed(user: User, signal: AbortSignal): AbortSignal;
};

export type Connection = {
  /** Closes with the code of `error`. Only the first reason counts. */
  finish(error: unknown): void;
  /** Resolves when the socket is closed and nothing of it is under way any more. */
  done: Promise<void>;
};

/** Serves one attached client until either side closes. */
export function openConnection(socket: WebSocket, attachment: Attachment, deps: ConnectionDeps): Connection {
  const { session, user } = attachment;
  const closed = new AbortController();
  const outbox = createOutbox(socket, deps.limits);
  const log = deps.log.child({ session_id: session.id, user_id: user.userId });
  const started = performance.now();

  const finish = (cause: unknown): void => {
    if (closed.signal.aborted) return;
    const error = refusalOf(cause);
    closed.abort(error);
    if (isFault(error)) log.error({ err: cause }, "a socket failed");
    end(socket, session.id, error, outbox);
  };
  const signal = deps.whileAllowed(user, closed.signal);
  signal.addEventListener("abort", () => finish(signal.reason), { once: true });
  const stopKeepAlive = keepAlive(socket, deps.limits, finish);
  socket.on("error", (error) => log.debug({ error: error.message }, "a socket was cut"));

  const inbox = receive({
    socket,
    outbox,
    limits: deps.limits,
    signal,
    finish,
    refuse: (error) => outbox.send(errorFrame(session.id, error)),
    handle: (message) => answer(message, { ...deps, sessionId: session.id, user, outbox, log, signal }),
  });
  const feed = feedOut(attachment, deps, outbox, signal).catch(finish);
  const done = new Promise<void>((resolve) => {
    socket.once("close", (code) => {
      stopKeepAlive();
      closed.abort(refusal(ErrorReason.UNAVAILABLE, "the socket is closed"));
      log.info({ code, ms: Math.round(performance.now() - started) }, "socket closed");
      resolve(Promise.all([feed, inbox.settled()]).then(() => undefined));
    });
  });
  return { finish, done };
}

/** Sends what the client came for. Rejects with the reason to close: at best the end of the session. */
async function feedOut(attachment: Attachment, deps: ConnectionDeps, outbox: Outbox, signal: AbortSignal): Promise<never> {
  const { session, user, afterSeq, includeDeltas } = attachment;
  const items = deps.reader.watch({ ownerId: user.userId, sessionId: session.id, afterSeq: afterSeq ?? 0, includeDeltas, signal });
  const withHistory = afterSeq === undefined;
  await sendFeed({ session, items, withHistory, outbox, frames: deps.serverFrames, limits: deps.limits, signal });
  throw refusal(ErrorReason.SESSION_ENDED, "the session has ended");
}

/** Codes whose reason the client needs no words for, or could not read. */
const silentCodes: ReadonlySet<number> = new Set([closeCodes.ended, closeCodes.reset, closeCodes.restart]);

/** Says why, where that helps, and closes. */
export function end(socket: WebSocket, sessionId: string, error: ConnectError, outbox: Pick<Outbox, "send">): void {
  const code = closeCodeOf(error);
  if (!silentCodes.has(code)) outbox.send(errorFrame(sessionId, error));
  socket.close(code, closeReason(error));
  // The client's own close frame must be read, also where nothing else is.
  socket.resume();
}

type AnswerDeps = Pick<ConnectionDeps, "actions" | "clientFrames" | "share" | "log"> & {
  sessionId: string;
  user: User;
  outbox: Outbox;
  signal: AbortSignal;
};

/** Does what one message asks. Every refusal is an `error` frame, and the connection stays. */
async function answer(message: Uint8Array, deps: AnswerDeps): Promise<void> {
  const { clientFrames, sessionId, outbox, log } = deps;
  let envelope: ClientEnvelope | undefined;
  try {
    envelope = clientFrames.open(message, sessionId);
    const reply = await perform(deps, clientFrames.read(envelope, sessionId), echoOf(envelope));
    if (reply) outbox.send(reply);
  } catch (cause) {
    const error = refusalOf(cause);
    if (isFault(error)) log.error({ err: cause }, "a frame failed");
    outbox.send(errorFrame(sessionId, error, envelope ? echoOf(envelope) : {}));
  }
}

/** Does what a frame asks, in its person's share of the server. */
async function perform(
  { actions, share, user, signal }: AnswerDeps,
  frame: ClientFrame,
  echo: Record<string, string>,
): Promise<Buffer | undefined> {
  if (frame.type === "heartbeat") return undefined;
  return share.run(user.userId, signal, () => act(actions, user, frame, echo));
}

/** The answer is for the sender alone; what happened comes to everybody by the log. */
async function act(
  actions: ChannelActions,
  user: User,
  frame: Exclude<ClientFrame, { type: "heartbeat" }>,
  echo: Record<string, string>,
): Promise<Buffer | undefined> {
  switch (frame.type) {
    case "interrupt":
      await actions.interrupt(user, frame.request);
      return undefined;
    case "prompt": {
      const accepted = await actions.sendPrompt(user, frame.request);
      return accepted.queued ? promptQueuedFrame(frame.request.sessionId, accepted, echo) : undefined;
    }
    case "tool_approval_response":
      await actions.answerApproval(user, frame.request);
      return undefined;
    case "ask_user_question_response":
      await actions.answerQuestion(user, frame.request);
      return undefined;
  }
}
