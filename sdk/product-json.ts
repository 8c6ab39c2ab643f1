import { type DescField, type DescMessage, type JsonObject, type JsonValue, type Message, toJson } from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { wordOf } from "./words.ts";

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
