import { create, fromJson, type JsonValue, toBinary, toJson } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { RunnerEventSchema } from "../gen/carrel/runner/v1/runner_service_pb.ts";
import { type EventPayload, EventPayloadSchema } from "../gen/carrel/v1/event_pb.ts";

/** The largest event of a log, in bytes. The agent's own record has everything; the log says what it left out. */
const eventBytes = 1024 * 1024;
/** What is kept of the texts in an event that is too large, and what each value costs beside its text. */
const keptCharacters = 64 * 1024;
const perValue = 100;

/** The event's bytes; of one that is too large, those of one of its kind with its texts cut so that every client can be shown it. */
export function encodeWithinLimit(createdAtMs: number, payload: EventPayload): Uint8Array {
  const encode = (shown: EventPayload) => toBinary(RunnerEventSchema, create(RunnerEventSchema, { createdAtMs, payload: shown }));
  const whole = encode(payload);
  if (whole.length <= eventBytes) return whole;
  const shorter = encode(shortened(payload));
  return shorter.length <= eventBytes ? shorter : encode(tooLarge(payload));
}

function tooLarge({ kind }: EventPayload): EventPayload {
  const details = `an event of kind ${kind.case} was too large to keep`;
  return create(EventPayloadSchema, { kind: { case: "sessionError", value: { error: "event_too_large", details } } });
}

function shortened(payload: EventPayload): EventPayload {
  const { kind } = payload;
  switch (kind.case) {
    case "toolResult": {
      const content = kind.value.content ? shorten(toJson(ValueSchema, kind.value.content)) : "";
      return create(EventPayloadSchema, {
        kind: { case: "toolResult", value: { ...kind.value, content: fromJson(ValueSchema, content) } },
      });
    }
    case "toolUse":
      return create(EventPayloadSchema, {
        kind: { case: "toolUse", value: { ...kind.value, input: shorten(kind.value.input ?? {}) as Record<string, JsonValue> } },
      });
    case "assistant":
      return create(EventPayloadSchema, {
        kind: {
          case: "assistant",
          value: { ...kind.value, content: { case: kind.value.content.case ?? "text", value: cut(kind.value.content.value ?? "") } },
        },
      });
    case "result":
      return create(EventPayloadSchema, { kind: { case: "result", value: { ...kind.value, summary: cut(kind.value.summary) } } });
    default:
      return tooLarge(payload);
  }
}

/** The value with its texts cut so that all of them together keep to the budget; what is past it is left out. */
function shorten(value: JsonValue, budget = { left: keptCharacters }): JsonValue {
  if (typeof value === "string") {
    const kept = cut(value, Math.max(0, budget.left));
    budget.left -= Math.min(value.length, Math.max(0, budget.left)) + perValue;
    return kept;
  }
  budget.left -= perValue;
  if (Array.isArray(value)) return value.filter(() => budget.left > 0).map((item) => shorten(item, budget));
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value).filter(([key]) => (budget.left -= key.length) > 0);
  return Object.fromEntries(entries.map(([key, item]) => [key, shorten(item, budget)]));
}

function cut(text: string, kept: number = keptCharacters): string {
  return text.length <= kept ? text : `${text.slice(0, kept)}\n[${text.length - kept} more characters are left out of the log]`;
}
