// What the server says (spec §2.4): envelopes as bytes.
import { create, type JsonObject } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { type Delta, DeltaKindSchema, type Event, EventSchema, FrameSchema } from "../../../gen/carrel/v1/event_pb.ts";
import { reasonOf } from "../../errors.ts";
import { type RestError, restErrorOf } from "../../http/rest/errors.ts";
import { createMessageWriters } from "../../http/rest/writer.ts";
import type { View } from "../../journal/session-view.ts";
import { wordOf } from "../../words.ts";
import { frameOf } from "../frames.ts";

export type ServerFrames = {
  /** The envelope of an event, encoded once however many readers an event object has; undefined for an unknown payload. */
  event(sessionId: string, event: Event): Buffer | undefined;
};

export function createServerFrames(): ServerFrames {
  const write = createMessageWriters()(FrameSchema);
  const encoded = new WeakMap<Event, Buffer>();
  return {
    event(sessionId, event) {
      const known = encoded.get(event);
      if (known) return known;
      const frame = frameOf(sessionId, event);
      if (!frame) return undefined;
      const bytes = Buffer.from(JSON.stringify(write(frame)));
      encoded.set(event, bytes);
      return bytes;
    },
  };
}

/** An envelope that is no event: it has no `seq`. */
export function plainFrame(sessionId: string, type: string, payload: JsonObject): Buffer {
  return Buffer.from(JSON.stringify({ type, timestamp: new Date().toISOString(), session_id: sessionId, payload }));
}

/** Where a session stands, in the shape of the event that says so. */
export function statusFrame(sessionId: string, { status, userState, detail }: Pick<View, "status" | "userState" | "detail">): Buffer {
  const event = create(EventSchema, { payload: { kind: { case: "sessionStatus", value: { status, userState, detail } } } });
  return plainFrame(sessionId, "session_status", frameOf(sessionId, event)?.payload ?? {});
}

export function deltaFrame(sessionId: string, delta: Delta): Buffer {
  return plainFrame(sessionId, "delta", {
    block_id: delta.blockId,
    kind: wordOf(DeltaKindSchema, delta.kind),
    text: delta.text,
    offset: delta.offset,
    parent_tool_use_id: delta.parentToolUseId,
  });
}

/** Tells the sender alone where its prompt stands; the prompt itself comes to everybody by the log. */
export function promptQueuedFrame(sessionId: string, accepted: { seq: number; position: number }, echo: Record<string, string>): Buffer {
  const { seq, position } = accepted;
  const message = position === 1 ? "one turn goes first" : `${position} turns go first`;
  return plainFrame(sessionId, "system", { ...echo, subtype: "prompt_queued", message, seq, position });
}

const maxMessageCharacters = 2_000;

/** A refusal as an `error` frame; `echo` holds the ids of what was refused. */
export function errorFrame(sessionId: string, error: ConnectError, echo: Record<string, string> = {}): Buffer {
  const { body, headers } = restErrorOf(error);
  const seconds = headers["retry-after"];
  return plainFrame(sessionId, "error", {
    ...echo,
    code: codeOf(reasonOf(error), body),
    message: body.message.slice(0, maxMessageCharacters).toWellFormed(),
    ...(seconds === undefined ? {} : { retry_after: Number(seconds) }),
  });
}

const invalidReasons: ReadonlySet<ErrorReason | undefined> = new Set([
  ErrorReason.INVALID_ARGUMENT,
  ErrorReason.MALFORMED_BODY,
  ErrorReason.UNKNOWN_FIELD,
  ErrorReason.UNSUPPORTED_FIELD,
]);

/** The product's word where it has one, else the reason's own. */
function codeOf(reason: ErrorReason | undefined, { error, details }: RestError["body"]): string {
  if (invalidReasons.has(reason)) return "invalid_message";
  if (reason === ErrorReason.SESSION_ENDED) return "session_not_running";
  // Approvals and questions have an absence of their own.
  return reason === ErrorReason.NOT_FOUND && details.resource === "session" ? "session_not_found" : error;
}
