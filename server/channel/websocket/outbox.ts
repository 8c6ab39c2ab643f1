import type { WebSocket } from "ws";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../../errors.ts";
import type { SocketLimits } from "./limits.ts";

/** What goes out on one socket. Never waits by itself: whoever makes more asks for `room` first. */
export type Outbox = {
  /** Sends a whole message; behind the one whose parts are under way, if there is one. */
  send(message: Buffer): void;
  /** Sends the next part of one long message. Between its first and its last part, other messages wait. */
  sendPart(part: Buffer, last: boolean): void;
  /** True when more should wait for `room`. */
  readonly full: boolean;
  /** Resolves when little enough waits. Rejects with READER_TOO_SLOW when the client takes nothing, and when `signal` aborts. */
  room(signal: AbortSignal): Promise<void>;
};

type Socket = Pick<WebSocket, "send" | "bufferedAmount">;

export function createOutbox(socket: Socket, limits: Pick<SocketLimits, "queueBytes" | "stalledMs">): Outbox {
  // Half, because a reply and an event may both be on their way when the other half is reached.
  const plenty = limits.queueBytes / 2;
  const progress = createProgress();
  const held: Buffer[] = [];
  let heldBytes = 0;
  let inParts = false;
  const write = (data: Buffer, fin: boolean): void => socket.send(data, { binary: false, fin }, progress.made);
  const isFull = (): boolean => socket.bufferedAmount + heldBytes > plenty;

  return {
    get full() {
      return isFull();
    },
    send(message) {
      if (!inParts) return write(message, true);
      held.push(message);
      heldBytes += message.byteLength;
    },
    sendPart(part, last) {
      write(part, last);
      inParts = !last;
      if (!last) return;
      heldBytes = 0;
      for (const message of held.splice(0)) write(message, true);
    },
    async room(signal) {
      const start = performance.now();
      while (isFull()) {
        signal.throwIfAborted();
        const left = Math.max(start, progress.at()) + limits.stalledMs - performance.now();
        if (left <= 0) throw refusal(ErrorReason.READER_TOO_SLOW, "you read too slowly: connect again with after_seq");
        await progress.wait(left, signal);
      }
      signal.throwIfAborted();
    },
  };
}

/** When the client last took something, and a wait for the next time. */
function createProgress() {
  const waiters = new Set<() => void>();
  let last = 0;
  return {
    made: (): void => {
      last = performance.now();
      for (const wake of [...waiters]) wake();
    },
    at: (): number => last,
    wait: (milliseconds: number, signal: AbortSignal): Promise<void> => woken(waiters, milliseconds, signal),
  };
}

function woken(waiters: Set<() => void>, milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      waiters.delete(done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    waiters.add(done);
    signal.addEventListener("abort", done, { once: true });
  });
}
