import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { ConnectError } from "@connectrpc/connect";
import { type WebSocket, WebSocketServer } from "ws";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../../errors.ts";
import { rawAnswerOf, writeRawAnswer } from "../../http/raw-answers.ts";
import type { UpgradeHandler } from "../../http/upgrade.ts";
import type { Authorize } from "../../identity/authorize.ts";
import type { User } from "../../identity/principal.ts";
import type { JournalReader } from "../../journal/reader.ts";
import type { FairShare } from "../../limits/fair-share.ts";
import type { Log } from "../../log.ts";
import type { ChannelActions } from "../actions.ts";
import { createClientFrameReader } from "./client-frames.ts";
import { isFault, refusalOf } from "./closing.ts";
import { type Connection, type ConnectionDeps, end, openConnection } from "./connection.ts";
import { type Attachment, admit, saysWhoInUrl, sessionIdOf } from "./handshake.ts";
import { defaultSocketLimits, type SocketLimits } from "./limits.ts";
import { createServerFrames } from "./server-frames.ts";

export type SocketHandlerDeps = {
  authorize: Authorize;
  /** Takes a ticket for this session, and says whose it was. */
  redeemTicket(ticket: string, sessionId: string): Promise<User>;
  reader: JournalReader;
  actions: ChannelActions;
  /** Aborts with `signal`, or with the reason why this person may not stay connected any longer. */
  whileAllowed(user: User, signal: AbortSignal): AbortSignal;
  /** Shared with the calls of the other surfaces. */
  share: FairShare;
  /** Parts of the default limits to change. */
  limits?: Partial<SocketLimits>;
  log: Log;
};

export type SocketHandler = {
  /** Takes handshakes whose path and origin are good. */
  onUpgrade: UpgradeHandler;
  /** Refuses new handshakes, closes every socket with 1012, and resolves when nothing of them is under way. Safe to repeat. */
  close(): Promise<void>;
};

/** The WebSocket form of the real-time channel (spec §2). */
export function createSocketHandler(deps: SocketHandlerDeps): SocketHandler {
  const limits: SocketLimits = { ...defaultSocketLimits, ...deps.limits };
  const connectionDeps: ConnectionDeps = { ...deps, limits, clientFrames: createClientFrameReader(), serverFrames: createServerFrames() };
  const stopping = new AbortController();
  const underWay = new Set<Promise<void>>();
  const connections = new Set<Connection>();
  const track = (work: Promise<void>): void => {
    underWay.add(work);
    void work.finally(() => underWay.delete(work));
  };
  const serve = (socket: WebSocket, attachment: Attachment): void => {
    const connection = openConnection(socket, attachment, connectionDeps);
    connections.add(connection);
    track(connection.done.finally(() => connections.delete(connection)));
  };
  const door: Door = { deps, limits, sockets: createSockets(limits), stopping: stopping.signal, serve };
  return {
    onUpgrade(request, socket, head) {
      const decided = decide(door, request, socket, head).catch((error: unknown) => {
        deps.log.error({ err: error }, "a handshake failed");
        socket.destroy();
      });
      track(decided);
    },
    async close() {
      stopping.abort();
      for (const connection of connections) connection.finish(shuttingDown());
      while (underWay.size > 0) await Promise.all(underWay);
    },
  };
}

function createSockets(limits: SocketLimits): WebSocketServer {
  // A variable, because the published types do not know `closeTimeout` yet.
  const options = {
    noServer: true,
    clientTracking: false,
    // Frames are small and often secret: compression would cost memory per socket and leak by length.
    perMessageDeflate: false,
    maxPayload: limits.messageBytes,
    closeTimeout: limits.closeMs,
  };
  return new WebSocketServer(options);
}

type Door = {
  deps: SocketHandlerDeps;
  limits: SocketLimits;
  sockets: WebSocketServer;
  stopping: AbortSignal;
  serve(socket: WebSocket, attachment: Attachment): void;
};

/** Lets a client in, or turns it away in the way that it can read. */
async function decide(
  { deps, limits, sockets, stopping, serve }: Door,
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<void> {
  const admission = await within(limits.handshakeMs, admit(request, deps)).catch(refusalOf);
  if (stopping.aborted) return writeRawAnswer(socket, rawAnswerOf(shuttingDown()));
  const accept = (serveSocket: (webSocket: WebSocket) => void): void => sockets.handleUpgrade(request, socket, head, serveSocket);
  if (!(admission instanceof ConnectError)) return accept((webSocket) => serve(webSocket, admission));
  if (isFault(admission)) deps.log.error({ err: admission.cause }, "a handshake failed");
  if (saysWhoInUrl(request)) accept((webSocket) => turnAway(webSocket, request, admission));
  else writeRawAnswer(socket, rawAnswerOf(admission));
}

function shuttingDown(): ConnectError {
  return refusal(ErrorReason.SHUTTING_DOWN, "this server is shutting down, connect again with after_seq");
}

/** For a browser, which is told only by the close code. */
function turnAway(socket: WebSocket, request: IncomingMessage, error: ConnectError): void {
  // Whatever it sends or breaks until it is gone does not matter.
  socket.on("error", () => socket.terminate());
  end(socket, namedSession(request), error, { send: (message) => socket.send(message, { binary: false }) });
}

function namedSession(request: IncomingMessage): string {
  try {
    return sessionIdOf(request);
  } catch {
    return "";
  }
}

async function within<T>(milliseconds: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(refusal(ErrorReason.UNAVAILABLE, "the handshake took too long, try again")), milliseconds);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}
