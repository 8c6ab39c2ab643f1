import type { SocketLimits } from "./limits.ts";
import type { Outbox } from "./outbox.ts";
import { plainFrame } from "./server-frames.ts";

/** Writes what was there at the attach as `history` frames, without ever holding one of them in memory. */
export type HistoryWriter = {
  add(envelope: Buffer): void;
  /** Ends the last frame, which says that it is. Sends one also when there was nothing. */
  finish(): void;
};

/** Smaller parts cost a system call each, larger ones memory while the client is slow. */
const partBytes = 32 * 1024;

export function createHistoryWriter(sessionId: string, outbox: Outbox, limits: Pick<SocketLimits, "historyFrameBytes">): HistoryWriter {
  let pieces: Buffer[] = [];
  let pieceBytes = 0;
  let frameBytes = 0;
  let messages = 0;

  const put = (piece: Buffer): void => {
    pieces.push(piece);
    pieceBytes += piece.byteLength;
    frameBytes += piece.byteLength;
  };
  const flush = (last: boolean): void => {
    outbox.sendPart(Buffer.concat(pieces), last);
    pieces = [];
    pieceBytes = 0;
  };
  const begin = (): void => put(headOf(sessionId));
  const end = (complete: boolean): void => {
    put(complete ? lastTail : tail);
    flush(true);
    frameBytes = 0;
    messages = 0;
  };
  begin();
  return {
    add(envelope) {
      if (messages > 0 && frameBytes + comma.byteLength + envelope.byteLength + tail.byteLength > limits.historyFrameBytes) {
        end(false);
        begin();
      }
      if (messages > 0) put(comma);
      put(envelope);
      messages += 1;
      if (pieceBytes >= partBytes) flush(false);
    },
    finish: () => end(true),
  };
}

const comma = Buffer.from(",");
const tail = Buffer.from('],"complete":false}}');
const lastTail = Buffer.from('],"complete":true}}');

/** Everything of the frame before its first message. */
function headOf(sessionId: string): Buffer {
  const whole = plainFrame(sessionId, "history", { messages: [] });
  return whole.subarray(0, whole.byteLength - "]}}".length);
}
