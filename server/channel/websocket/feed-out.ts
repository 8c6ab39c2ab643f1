import type { WatchEventsResponse } from "../../../gen/carrel/v1/channel_service_pb.ts";
import type { Event } from "../../../gen/carrel/v1/event_pb.ts";
import { type View, viewOf } from "../../journal/session-view.ts";
import type { SessionRow } from "../../journal/store.ts";
import { createHistoryWriter, type HistoryWriter } from "./history.ts";
import type { SocketLimits } from "./limits.ts";
import type { Outbox } from "./outbox.ts";
import { deltaFrame, type ServerFrames, statusFrame } from "./server-frames.ts";

export type FeedOut = {
  session: SessionRow;
  /** The watch of the journal, from the client's cursor or from the start. */
  items: AsyncIterable<WatchEventsResponse>;
  withHistory: boolean;
  outbox: Outbox;
  frames: ServerFrames;
  limits: Pick<SocketLimits, "historyFrameBytes">;
  signal: AbortSignal;
};

/**
 * Sends a session to one client: the history in its frames, where the session stands, then every event as it comes. Asks for
 * the next item only when the client has taken enough of the last ones. Returns when the log has ended.
 */
export async function sendFeed({ session, items, withHistory, outbox, frames, limits, signal }: FeedOut): Promise<void> {
  const replay = withHistory ? createReplay(session, createHistoryWriter(session.id, outbox, limits), outbox, frames) : undefined;
  let replaying = withHistory;
  const sendEvent = (event: Event): void => {
    const envelope = frames.event(session.id, event);
    if (envelope) outbox.send(envelope);
  };
  for await (const { item } of items) {
    switch (item.case) {
      case "event":
        if (replaying) replay?.add(item.value);
        else sendEvent(item.value);
        break;
      case "synced":
        replaying = false;
        replay?.finish();
        break;
      case "delta":
        outbox.send(deltaFrame(session.id, item.value));
        break;
    }
    await outbox.room(signal);
  }
}

type Replay = { add(event: Event): void; finish(): void };

function createReplay(session: SessionRow, history: HistoryWriter, outbox: Outbox, frames: ServerFrames): Replay {
  // The log's own word where there is one: the row may be newer than what has been sent.
  let status: Pick<View, "status" | "userState" | "detail"> = viewOf(session);
  let end: Buffer | undefined;
  return {
    add(event) {
      const envelope = frames.event(session.id, event);
      if (!envelope) return;
      const kind = event.payload?.kind;
      if (kind?.case === "sessionStatus") status = kind.value;
      // It comes after the history, as the last frame of the stream, and only once.
      if (kind?.case === "sessionEnd") end = envelope;
      else history.add(envelope);
    },
    finish() {
      history.finish();
      outbox.send(statusFrame(session.id, end ? viewOf({ ...session, state: "ended" }) : status));
      if (end) outbox.send(end);
    },
  };
}
