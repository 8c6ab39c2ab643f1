import { create, fromJson, type JsonValue, toBinary, toJson } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { type EventPayload, EventPayloadSchema } from "../gen/carrel/v1/event_pb.ts";

/** The largest event of a log, in bytes. The agent's own record has everything; the log says what it left out. */
const eventBytes = 1024 * 1024;
/** What is kept of a text in an event that is too large. */
const keptCharacters = 64 * 1024;

/** The payload, or one of its kind with its longest texts cut so that every client can be shown it. */
export function withinLimit(payload: EventPayload): EventPayload {
  if (toBinary(EventPayloadSchema, payload).length <= eventBytes) return payload;
  const { kind } = payload;
  switch (kind.case) {
    case "toolResult": {
      const content = kind.value.content ? shorten(toJson(ValueSchema, kind.value.content)) : "";
      return create(EventPayloadSchema, { kind: { case: "toolResult", value: { ...kind.value, content: fromJson(ValueSchema, content) } } });
    }
    case "toolUse":
      return create(EventPayloadSchema, { kind: { case: "toolUse", value: { ...kind.value, input: shorten(kind.value.input ?? {}) as Record<string, JsonValue> } } });
    case "assistant":
      return create(EventPayloadSchema, {
        kind: { case: "assistant", value: { ...kind.value, content: { case: kind.value.content.case ?? "text", value: cut(kind.value.content.value ?? "") } } },
      });
    case "result":
      return create(EventPayloadSchema, { kind: { case: "result", value: { ...kind.value, summary: cut(kind.value.summary) } } });
    default:
      return create(EventPayloadSchema, { kind: { case: "sessionError", value: { error: "event_too_large", details: `an event of kind ${kind.case} was too large to keep` } } });
  }
}

function shorten(value: JsonValue): JsonValue {
  if (typeof value === "string") return cut(value);
  if (Array.isArray(value)) return value.slice(0, 100).map((item) => shortenTo(item, Math.max(1, Math.min(value.length, 100))));
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value).slice(0, 100);
  return Object.fromEntries(entries.map(([key, item]) => [key, shortenTo(item, entries.length)]));
}

/** Shares what is kept among the parts, so that many long texts together stay within it. */
function shortenTo(value: JsonValue, parts: number): JsonValue {
  return typeof value === "string" ? cut(value, Math.floor((keptCharacters * 4) / parts)) : shorten(value);
}

function cut(text: string, kept: number = keptCharacters): string {
  return text.length <= kept ? text : `${text.slice(0, kept)}\n[${text.length - kept} more characters are left out of the log]`;
}
