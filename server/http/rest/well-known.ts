import { type DescMessage, fromJson, isMessage, type JsonValue, type Message, toJson } from "@bufbuild/protobuf";
import {
  DurationSchema,
  EmptySchema,
  FieldMaskSchema,
  ListValueSchema,
  type Struct,
  StructSchema,
  type Timestamp,
  TimestampSchema,
  ValueSchema,
} from "@bufbuild/protobuf/wkt";

/** How a well-known type looks in REST. A failed read throws. */
export type WellKnown = {
  read(value: JsonValue): unknown;
  write(value: unknown): JsonValue;
};

function byLibrary(schema: DescMessage): WellKnown {
  return {
    read: (value) => fromJson(schema, value),
    write: (value) => toJson(schema, value as Message),
  };
}

// The library's own writer is several times slower, and nearly every answer carries times of millisecond precision.
function writeTimestamp(value: unknown): JsonValue {
  const { seconds, nanos } = value as Timestamp;
  if (nanos % 1_000_000 !== 0) return toJson(TimestampSchema, value as Timestamp);
  return new Date(Number(seconds) * 1000 + nanos / 1_000_000).toISOString();
}

const struct: WellKnown = {
  // A singular Struct field holds the plain object itself; elements of lists and maps are messages.
  read: (value) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("expected an object");
    return value;
  },
  write: (value) => (isMessage(value) ? toJson(StructSchema, value as Struct) : (value as JsonValue)),
};

const table: ReadonlyMap<string, WellKnown> = new Map([
  [TimestampSchema.typeName, { read: (value: JsonValue) => fromJson(TimestampSchema, value), write: writeTimestamp }],
  [StructSchema.typeName, struct],
  ...[ValueSchema, ListValueSchema, DurationSchema, FieldMaskSchema, EmptySchema].map((schema): [string, WellKnown] => [
    schema.typeName,
    byLibrary(schema),
  ]),
]);

/** The form of a well-known type; undefined for messages of our own. Throws for one that REST has no form for. */
export function wellKnown(desc: DescMessage): WellKnown | undefined {
  const known = table.get(desc.typeName);
  if (!known && desc.typeName.startsWith("google.protobuf.")) throw new Error(`REST has no form for ${desc.typeName}`);
  return known;
}
