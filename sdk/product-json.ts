import {
  type DescField,
  type DescMessage,
  fromJson,
  type JsonObject,
  type JsonValue,
  type Message,
  type MessageShape,
  toJson,
} from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { valueOfWord, wordOf, wordsOf } from "./words.ts";

/**
 * A message in the product's JSON, as REST writes it: snake_case names, enum words (null for unspecified), defaults written
 * out, null for an unset message, and of a oneof only the field that is set.
 */
export function toProductJson(schema: DescMessage, message: Message): JsonObject {
  return writeMessage(reflect(schema, message));
}

function writeMessage(message: ReflectMessage): JsonObject {
  const json: JsonObject = {};
  for (const field of message.fields) {
    const isAbsent = !message.isSet(field);
    if (isAbsent && field.oneof) continue;
    json[field.name] = isAbsent && hasPresence(field) ? null : writeField(message, field);
  }
  return json;
}

function writeField(message: ReflectMessage, field: DescField): JsonValue {
  switch (field.fieldKind) {
    case "list":
      return Array.from(message.get(field), (value) => writeElement(field, value));
    case "map":
      return Object.fromEntries(Array.from(message.get(field), ([key, value]) => [String(key), writeElement(field, value)]));
    default:
      return writeElement(field, message.get(field));
  }
}

function writeElement(field: DescField, value: unknown): JsonValue {
  if (field.enum) return wordOf(field.enum, value as number) || null;
  if (!field.message) return value as JsonValue;
  // Well-known types have a JSON form of their own.
  const nested = value as ReflectMessage;
  return nested.desc.typeName.startsWith("google.protobuf.") ? toJson(nested.desc, nested.message) : writeMessage(nested);
}

function hasPresence(field: DescField): boolean {
  return field.fieldKind === "message" || ((field.fieldKind === "scalar" || field.fieldKind === "enum") && field.proto.proto3Optional);
}

/**
 * A message read from the product's JSON: enum words, null for a field that is not set. Throws an Error that names what is
 * wrong, fields that do not exist included.
 */
export function fromProductJson<Desc extends DescMessage>(schema: Desc, json: JsonValue): MessageShape<Desc> {
  return fromJson(schema, readMessage(schema, json));
}

/** The same in protobuf's JSON, which knows no words. Whatever is not of the expected shape is left for it to refuse. */
function readMessage(schema: DescMessage, json: JsonValue): JsonValue {
  if (schema.typeName.startsWith("google.protobuf.") || !isObject(json)) return json;
  const fields = new Map(schema.fields.map((field) => [field.name, field]));
  const given = Object.entries(json).filter(([, value]) => value !== null);
  return Object.fromEntries(given.map(([name, value]) => [name, readField(fields.get(name), value)]));
}

function readField(field: DescField | undefined, json: JsonValue): JsonValue {
  if (field?.fieldKind === "list" && Array.isArray(json)) return json.map((value) => readElement(field, value));
  if (field?.fieldKind === "map" && isObject(json))
    return Object.fromEntries(Object.entries(json).map(([key, value]) => [key, readElement(field, value)]));
  return field ? readElement(field, json) : json;
}

function readElement(field: DescField, json: JsonValue): JsonValue {
  if (field.message) return readMessage(field.message, json);
  if (!field.enum || typeof json !== "string") return json;
  const number = valueOfWord(field.enum, json);
  if (number === undefined) throw new Error(`${field.name}: "${json}" is none of ${wordsOf(field.enum).join(", ")}`);
  return number;
}

function isObject(json: JsonValue): json is JsonObject {
  return typeof json === "object" && json !== null && !Array.isArray(json);
}
