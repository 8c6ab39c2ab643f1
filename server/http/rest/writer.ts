import { type DescField, type DescMessage, type DescOneof, type JsonValue, type Message, ScalarType } from "@bufbuild/protobuf";
import { base64Encode } from "@bufbuild/protobuf/wire";
import { FeatureSet_FieldPresence } from "@bufbuild/protobuf/wkt";
import { wellKnown } from "./well-known.ts";
import { enumWords } from "./words.ts";

/** Turns a message into the product's JSON. */
export type MessageWriter = (message: Message) => JsonValue;

/** The writer of a message type. */
export type WriterOf = (desc: DescMessage) => MessageWriter;

type Row = Record<string, unknown>;
type ValueWriter = (value: unknown) => JsonValue;
type MemberWriter = (from: Row, to: Record<string, JsonValue>) => void;

const same: ValueWriter = (value) => value as JsonValue;

/**
 * Compiles writers, each message type once: the descriptor is walked here and never again.
 * snake_case names, defaults written, null for what is unset, enum words, plain JSON for Struct and Value; of a oneof only
 * the member that is set.
 */
export function createMessageWriters(): WriterOf {
  const compiled = new Map<string, MessageWriter>();
  const writerOf: WriterOf = (desc) => {
    const ready = compiled.get(desc.typeName);
    if (ready) return ready;
    const members: MemberWriter[] = [];
    const writer = wellKnown(desc)?.write ?? memberwise(members);
    // Before its members, because a message may contain itself.
    compiled.set(desc.typeName, writer);
    if (!wellKnown(desc))
      members.push(
        ...desc.members.map((member) => (member.kind === "oneof" ? oneofWriter(member, writerOf) : fieldWriter(member, writerOf))),
      );
    return writer;
  };
  return writerOf;
}

function memberwise(members: readonly MemberWriter[]): MessageWriter {
  return (message) => {
    const to: Record<string, JsonValue> = {};
    for (const member of members) member(message as unknown as Row, to);
    return to;
  };
}

function fieldWriter(field: DescField, writerOf: WriterOf): MemberWriter {
  const { localName, name } = field;
  const write = fieldValueWriter(field, writerOf);
  const optional =
    field.fieldKind === "message" ||
    (field.fieldKind !== "list" && field.fieldKind !== "map" && field.presence === FeatureSet_FieldPresence.EXPLICIT);
  if (!optional) {
    return (from, to) => {
      to[name] = write(from[localName]);
    };
  }
  return (from, to) => {
    const value = from[localName];
    to[name] = value === undefined ? null : write(value);
  };
}

function oneofWriter(oneof: DescOneof, writerOf: WriterOf): MemberWriter {
  const writers = new Map(oneof.fields.map((field) => [field.localName, { name: field.name, write: fieldValueWriter(field, writerOf) }]));
  return (from, to) => {
    const chosen = from[oneof.localName] as { case: string | undefined; value?: unknown };
    const writer = chosen.case === undefined ? undefined : writers.get(chosen.case);
    if (writer) to[writer.name] = writer.write(chosen.value);
  };
}

function fieldValueWriter(field: DescField, writerOf: WriterOf): ValueWriter {
  const kind = field.fieldKind === "list" ? field.listKind : field.fieldKind === "map" ? field.mapKind : field.fieldKind;
  const write = elementWriter(kind, field, writerOf);
  switch (field.fieldKind) {
    case "list":
      return write === same ? same : (value) => (value as unknown[]).map(write);
    case "map":
      return (value) => Object.fromEntries(Object.entries(value as Row).map(([key, one]) => [key, write(one)]));
    default:
      return write;
  }
}

function elementWriter(kind: "scalar" | "enum" | "message", field: DescField, writerOf: WriterOf): ValueWriter {
  if (kind === "enum" && field.enum) {
    const { wordOf } = enumWords(field.enum);
    return (value) => wordOf(value as number);
  }
  if (kind === "message" && field.message) {
    const write = writerOf(field.message);
    return (value) => write(value as Message);
  }
  return scalarWriter(field.scalar, field);
}

function scalarWriter(scalar: ScalarType | undefined, field: DescField): ValueWriter {
  switch (scalar) {
    case ScalarType.INT64:
    case ScalarType.UINT64:
    case ScalarType.SINT64:
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
      throw new Error(`${field.toString()}: REST has no form for 64-bit integers`);
    case ScalarType.BYTES:
      return (value) => base64Encode(value as Uint8Array);
    default:
      return same;
  }
}
