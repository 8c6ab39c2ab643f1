import { create, type DescField, type DescMessage, getOption, type JsonValue, type Message } from "@bufbuild/protobuf";
import { StructSchema } from "@bufbuild/protobuf/wkt";
import { former_name } from "../../../gen/carrel/v1/options_pb.ts";
import type { Problems } from "./problems.ts";
import { failed, scalarReader, type ValueReader } from "./scalars.ts";
import { unsupportedFields } from "./unsupported.ts";
import { wellKnown } from "./well-known.ts";
import { enumWords } from "./words.ts";

/** Sets one field of a message from JSON, or notes what is wrong. */
type FieldSetter = {
  /** The contract's name of the field. */
  name: string;
  set(target: Message, value: JsonValue, path: string, problems: Problems): void;
};

/** Reads messages of one type. */
export type MessageReader = {
  /** By REST name; a field with a former name is here twice. */
  fields: ReadonlyMap<string, FieldSetter>;
  /** Fills `target`. `given` holds the names that are set already; a body may repeat them only with an equal value. */
  fill(target: Message, value: JsonValue, path: string, problems: Problems, given?: ReadonlyMap<string, JsonValue>): void;
};

/** The reader of a message type. */
export type ReaderOf = (desc: DescMessage) => MessageReader;

type Row = Record<string, unknown>;

/** Compiles readers, each message type once: the descriptor is walked here and never again. */
export function createMessageReaders(): ReaderOf {
  const compiled = new Map<string, MessageReader>();
  const readerOf: ReaderOf = (desc) => {
    const ready = compiled.get(desc.typeName);
    if (ready) return ready;
    const fields = new Map<string, FieldSetter>();
    const reader: MessageReader = { fields, fill: (...args) => fill(desc, fields, ...args) };
    // Before its fields, because a message may contain itself.
    compiled.set(desc.typeName, reader);
    for (const field of desc.fields) {
      const setter = setterOf(field, readerOf);
      fields.set(field.name, setter);
      const former = getOption(field, former_name);
      if (former) fields.set(former, setter);
    }
    return reader;
  };
  return readerOf;
}

function setterOf(field: DescField, readerOf: ReaderOf): FieldSetter {
  const read = fieldReader(field, readerOf);
  return {
    name: field.name,
    set(target, value, path, problems) {
      if (value === null) return;
      const result = read(value, path, problems);
      if (result === failed) return;
      const row = target as unknown as Row;
      if (!field.oneof) row[field.localName] = result;
      else if ((row[field.oneof.localName] as { case?: string }).case === undefined)
        row[field.oneof.localName] = { case: field.localName, value: result };
      else
        problems.invalid.push({ field: path, message: `only one of ${field.oneof.fields.map((one) => one.name).join(", ")} may be set` });
    },
  };
}

function fieldReader(field: DescField, readerOf: ReaderOf): ValueReader {
  switch (field.fieldKind) {
    case "list":
      return listReader(elementReader(field.listKind, field, readerOf));
    case "map":
      return mapReader(elementReader(field.mapKind, field, readerOf));
    default:
      return elementReader(field.fieldKind, field, readerOf);
  }
}

function elementReader(kind: "scalar" | "enum" | "message", field: DescField, readerOf: ReaderOf): ValueReader {
  if (kind === "enum" && field.enum) return enumReader(field);
  if (kind === "message" && field.message) return messageReader(field.message, field, readerOf);
  return scalarReader(field.scalar, field);
}

function messageReader(desc: DescMessage, field: DescField, readerOf: ReaderOf): ValueReader {
  if (desc.typeName === StructSchema.typeName && field.fieldKind !== "message")
    throw new Error(`${field.toString()}: REST reads no lists or maps of Struct`);
  const special = wellKnown(desc);
  if (special) {
    return (value, path, problems) => {
      try {
        return special.read(value);
      } catch {
        problems.invalid.push({ field: path, message: `not a ${desc.name}` });
        return failed;
      }
    };
  }
  const reader = readerOf(desc);
  return (value, path, problems) => {
    const message = create(desc);
    reader.fill(message, value, path, problems);
    return message;
  };
}

function fill(
  desc: DescMessage,
  fields: ReadonlyMap<string, FieldSetter>,
  target: Message,
  value: JsonValue,
  path: string,
  problems: Problems,
  given?: ReadonlyMap<string, JsonValue>,
): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    problems.invalid.push({ field: path || "body", message: "expected an object" });
    return;
  }
  const lacking = unsupportedFields[desc.typeName];
  const seen = new Set<string>();
  for (const [key, one] of Object.entries(value)) {
    const at = path ? `${path}.${key}` : key;
    const setter = fields.get(key);
    if (!setter) {
      const saysNothing = lacking && Object.hasOwn(lacking, key) ? lacking[key] : undefined;
      if (!saysNothing) problems.unknown.push(at);
      else if (!saysNothing(one)) problems.unsupported.push(at);
      continue;
    }
    if (seen.has(setter.name)) problems.invalid.push({ field: at, message: `given twice, also under its other name` });
    seen.add(setter.name);
    const already = given?.get(setter.name);
    if (already === undefined) setter.set(target, one, at, problems);
    else if (already !== one) problems.invalid.push({ field: at, message: "differs from the path" });
  }
}

function listReader(read: ValueReader): ValueReader {
  return (value, path, problems) => {
    if (!Array.isArray(value)) {
      problems.invalid.push({ field: path, message: "expected an array" });
      return failed;
    }
    return value.map((one, index) => read(one, `${path}[${index}]`, problems));
  };
}

function mapReader(read: ValueReader): ValueReader {
  return (value, path, problems) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      problems.invalid.push({ field: path, message: "expected an object" });
      return failed;
    }
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, read(one, `${path}.${key}`, problems)]));
  };
}

function enumReader(field: DescField): ValueReader {
  if (!field.enum) throw new Error(`${field.toString()} is no enum`);
  const { numberOf, words } = enumWords(field.enum);
  return (value, path, problems) => {
    // The empty word is what a form or a query leaves when nothing was chosen.
    const number = value === "" ? 0 : typeof value === "string" ? numberOf(value) : undefined;
    if (number !== undefined) return number;
    problems.invalid.push({ field: path, message: `expected one of ${words.join(", ")}` });
    return failed;
  };
}
