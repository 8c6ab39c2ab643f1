import { type DescField, type JsonValue, ScalarType } from "@bufbuild/protobuf";
import { base64Decode } from "@bufbuild/protobuf/wire";
import type { Problems } from "./problems.ts";

/** What a reader answers when the value was wrong and the problem is noted. */
export const failed: unique symbol = Symbol("failed");

/** Reads one JSON value, strictly: no number as text, no text as number. */
export type ValueReader = (value: JsonValue, path: string, problems: Problems) => unknown;

/** The reader of a scalar. Throws for a type that REST has no form for. */
export function scalarReader(scalar: ScalarType | undefined, field: DescField): ValueReader {
  const wanted = kinds(scalar, field);
  return (value, path, problems) => {
    const result = wanted.read(value);
    if (result === failed) problems.invalid.push({ field: path, message: `expected ${wanted.name}` });
    return result;
  };
}

/** The JSON value that the text of a path variable or query parameter stands for; the text itself where it stands for none. */
export function fromText(scalar: ScalarType | undefined, text: string): JsonValue {
  switch (scalar) {
    case ScalarType.BOOL:
      return text === "true" ? true : text === "false" ? false : text;
    case ScalarType.INT32:
    case ScalarType.SINT32:
    case ScalarType.SFIXED32:
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return /^-?\d{1,10}$/.test(text) ? Number(text) : text;
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return /^-?\d{1,20}(\.\d{1,20})?(e[+-]?\d{1,3})?$/i.test(text) ? Number(text) : text;
    default:
      return text;
  }
}

type Kind = { name: string; read(value: JsonValue): unknown };

function kinds(scalar: ScalarType | undefined, field: DescField): Kind {
  switch (scalar) {
    case ScalarType.STRING:
      return {
        name: "a string of whole characters",
        read: (value) => (typeof value === "string" && value.isWellFormed() ? value : failed),
      };
    case ScalarType.BOOL:
      return { name: "true or false", read: (value) => (typeof value === "boolean" ? value : failed) };
    case ScalarType.INT32:
    case ScalarType.SINT32:
    case ScalarType.SFIXED32:
      return integer(-0x80000000, 0x7fffffff);
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return integer(0, 0xffffffff);
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return { name: "a number", read: (value) => (typeof value === "number" && Number.isFinite(value) ? value : failed) };
    case ScalarType.BYTES:
      return { name: "base64", read: readBase64 };
    default:
      throw new Error(`${field.toString()}: REST has no form for this type`);
  }
}

function integer(least: number, most: number): Kind {
  return {
    name: `an integer from ${least} to ${most}`,
    // `+ 0` turns the minus zero of JSON into zero.
    read: (value) => (typeof value === "number" && Number.isInteger(value) && value >= least && value <= most ? value + 0 : failed),
  };
}

function readBase64(value: JsonValue): unknown {
  if (typeof value !== "string") return failed;
  try {
    return base64Decode(value);
  } catch {
    return failed;
  }
}
