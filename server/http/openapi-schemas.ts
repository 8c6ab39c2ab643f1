import { type DescEnum, type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { FeatureSet_FieldPresence } from "@bufbuild/protobuf/wkt";
import { enumWords } from "./rest/words.ts";

/** A piece of JSON Schema. */
export type Schema = Record<string, unknown>;

const wellKnownSchemas: Readonly<Record<string, Schema>> = {
  "google.protobuf.Timestamp": { type: "string", format: "date-time" },
  "google.protobuf.Duration": { type: "string" },
  "google.protobuf.FieldMask": { type: "string" },
  "google.protobuf.Struct": { type: "object", additionalProperties: true },
  "google.protobuf.Value": {},
  "google.protobuf.ListValue": { type: "array", items: {} },
  "google.protobuf.Empty": { type: "object" },
};

/** Makes schemas; messages and enums become named components, each once. */
export type SchemaMaker = {
  components: Record<string, Schema>;
  /** The schema of a field as an answer carries it: `answer` adds null where REST writes it. */
  field(field: DescField, answer: boolean): Schema;
  /** A reference to an answer's message. */
  answer(message: DescMessage): Schema;
  /** The object of a request body without the named fields. */
  request(message: DescMessage, without: readonly string[]): Schema;
};

/** An empty set of components and the functions that fill it. */
export function createSchemaMaker(): SchemaMaker {
  const components: Record<string, Schema> = {};

  function answer(message: DescMessage): Schema {
    const known = wellKnownSchemas[message.typeName];
    if (known) return known;
    const name = componentName(message);
    if (!components[name]) {
      const component: Schema = { type: "object" };
      // Before its properties, because a message may contain itself.
      components[name] = component;
      component.properties = Object.fromEntries(message.fields.map((one) => [one.name, field(one, true)]));
      component.required = message.fields.filter((one) => !one.oneof).map((one) => one.name);
    }
    return { $ref: `#/components/schemas/${name}` };
  }

  function request(message: DescMessage, without: readonly string[]): Schema {
    const fields = message.fields.filter((one) => !without.includes(one.name));
    return {
      type: "object",
      additionalProperties: false,
      properties: Object.fromEntries(fields.map((one) => [one.name, field(one, false)])),
    };
  }

  function field(one: DescField, isAnswer: boolean): Schema {
    const element = elementOf(one, isAnswer);
    if (one.fieldKind === "list") return { type: "array", items: element };
    if (one.fieldKind === "map") return { type: "object", additionalProperties: element };
    const optional = one.fieldKind === "message" || one.presence === FeatureSet_FieldPresence.EXPLICIT;
    return isAnswer && optional && !one.oneof ? { oneOf: [element, { type: "null" }] } : element;
  }

  function elementOf(one: DescField, isAnswer: boolean): Schema {
    if (one.message) return wellKnownSchemas[one.message.typeName] ?? (isAnswer ? answer(one.message) : request(one.message, []));
    if (one.enum) return enumSchema(one.enum, isAnswer);
    return scalarSchema(one.scalar);
  }

  return { components, field, answer, request };
}

function enumSchema(desc: DescEnum, isAnswer: boolean): Schema {
  const { words } = enumWords(desc);
  return isAnswer ? { type: ["string", "null"], enum: [...words, null] } : { type: "string", enum: words };
}

function scalarSchema(scalar: ScalarType | undefined): Schema {
  switch (scalar) {
    case ScalarType.STRING:
      return { type: "string" };
    case ScalarType.BYTES:
      return { type: "string", contentEncoding: "base64" };
    case ScalarType.BOOL:
      return { type: "boolean" };
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return { type: "number" };
    default:
      return { type: "integer", format: "int32" };
  }
}

function componentName(message: DescMessage): string {
  return message.typeName
    .split(".")
    .filter((part) => /^[A-Z]/.test(part))
    .join("");
}
