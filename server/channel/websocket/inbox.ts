import type { ConnectError } from "@connectrpc/connect";
import type { RawData, WebSocket } from "ws";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { retryLater } from "../../errors.ts";
import type { SocketLimits } from "./limits.ts";
import { createMessageRate } from "./message-rate.ts";
import type { Outbox } from "./outbox.ts";

export type InboxDeps = {
  socket: WebSocket;
  outbox: Outbox;
  limits: Pick<SocketLimits, "messagesPerSecond" | "floodMs">;
  /** Does what a message asks, and answers it. Must not reject. */
  handle(message: Uint8Array): Promise<void>;
  /** Tells the client that a message was not read. */
  refuse(error: ConnectError): void;
  /** Ends the connection. */
  finish(error: unknown): void;
  signal: AbortSignal;
};

/**
 * Takes messages one after the other, in the order of the client. While one is under way, or the client does not read the
 * answers, nothing more is read from the network: what a client can make wait here is what one read of the socket held.
 */
export function receive({ socket, outbox, limits, handle, refuse, finish, signal }: InboxDeps): { settled(): Promise<void> } {
  const rate = createMessageRate(limits.messagesPerSecond);
  // Whoever floods has been told a hundred times: telling it of every message would cost more than the messages do.
  const refusals = createMessageRate(limits.messagesPerSecond);
  const queue: Uint8Array[] = [];
  let working: Promise<void> | undefined;

  const work = async (): Promise<void> => {
    socket.pause();
    try {
      do {
        const message = queue.shift();
        if (message) await handle(message);
        await outbox.room(signal);
      } while (queue.length > 0);
    } catch (error) {
      finish(error);
    } finally {
      working = undefined;
      socket.resume();
    }
  };
  socket.on("message", (data: RawData) => {
    if (signal.aborted) return;
    const now = performance.now();
    const wait = rate.admit(now);
    if (wait === 0) queue.push(bytesOf(data));
    else {
      const endless = rate.floodedFor(now) >= limits.floodMs;
      if (!endless && refusals.admit(now) > 0) return;
      const error = retryLater(ErrorReason.RATE_LIMITED, `more than ${limits.messagesPerSecond} messages in a second`, wait / 1000);
      if (endless) return finish(error);
      refuse(error);
      if (!outbox.full) return;
    }
    working ??= work();
  });
  return { settled: async () => working };
}

function bytesOf(data: RawData): Uint8Array {
  if (Array.isArray(data)) return Buffer.concat(data);
  return data instanceof ArrayBuffer ? new Uint8Array(data) : data;
}
