import { create, type DescField, type DescMethodUnary, type JsonValue, type Message, type ScalarType } from "@bufbuild/protobuf";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../../errors.ts";
import { createFlatFiller } from "./flat.ts";
import { noProblems, type Problems, refuseProblems } from "./problems.ts";
import type { MessageReader, ReaderOf } from "./reader.ts";
import type { Binding } from "./routes.ts";
import { fromText } from "./scalars.ts";
import { parseStrictJson } from "./strict-json.ts";

/** The parts of an HTTP request that bind to a message, still raw. */
type RawRequest = { values: readonly string[]; query: string; body: Uint8Array };

/** Makes the request message of one binding, or refuses with everything that is wrong. */
export type Binder = (raw: RawRequest) => Message;

/** Compiles a binder. */
export function createBinder(method: DescMethodUnary, binding: Binding, readerOf: ReaderOf): Binder {
  const reader = readerOf(method.input);
  const fillBody = binding.flat ? createFlatFiller(method.input, binding.flat, readerOf) : reader.fill;
  const inPath = binding.variables.map((name) => parameterOf(method, name));
  // A body of one field leaves the others to the query; a whole body leaves nothing.
  const inQuery = new Map(binding.hasBody && !binding.flat ? [] : queryParameters(method, binding));
  return (raw) => {
    const problems = noProblems();
    const message = create(method.input);
    const given = new Map<string, JsonValue>();
    inPath.forEach((parameter, index) => {
      const value = parameter.read(decode(raw.values[index] ?? "", "path"));
      given.set(parameter.name, value);
      reader.fields.get(parameter.name)?.set(message, value, parameter.name, problems);
    });
    if (raw.query !== "") bindQuery(raw.query, inQuery, reader, message, problems, given);
    bindBody(raw.body, binding, fillBody, message, problems, given);
    refuseProblems(problems);
    return message;
  };
}

type Parameter = { name: string; repeated: boolean; read(text: string): JsonValue };

function parameterOf(method: DescMethodUnary, name: string): Parameter {
  const field = method.input.fields.find((one) => one.name === name);
  const simple = field && simpleScalar(field);
  if (!simple || simple.repeated) throw new Error(`${method.toString()}: ${name} cannot stand in a path`);
  return { name, repeated: false, read: (text) => fromText(simple.scalar, text) };
}

function queryParameters(method: DescMethodUnary, binding: Binding): [string, Parameter][] {
  return method.input.fields.flatMap((field): [string, Parameter][] => {
    const simple = simpleScalar(field);
    if (!simple || binding.variables.includes(field.name)) return [];
    return [[field.name, { name: field.name, repeated: simple.repeated, read: (text) => fromText(simple.scalar, text) }]];
  });
}

function simpleScalar(field: DescField): { scalar: ScalarType | undefined; repeated: boolean } | undefined {
  if (field.fieldKind === "scalar" || field.fieldKind === "enum") return { scalar: field.scalar, repeated: false };
  if (field.fieldKind === "list" && field.listKind !== "message") return { scalar: field.scalar, repeated: true };
  return undefined;
}

function bindQuery(
  query: string,
  parameters: ReadonlyMap<string, Parameter>,
  reader: MessageReader,
  message: Message,
  problems: Problems,
  given: Map<string, JsonValue>,
): void {
  const values = new Map<Parameter, JsonValue[]>();
  for (const pair of query.split("&")) {
    if (pair === "") continue;
    const mark = pair.indexOf("=");
    const name = decode(mark < 0 ? pair : pair.slice(0, mark), "query");
    const text = decode(mark < 0 ? "" : pair.slice(mark + 1), "query");
    const parameter = parameters.get(name);
    if (!parameter) {
      problems.unknown.push(name);
      continue;
    }
    const list = values.get(parameter) ?? [];
    list.push(parameter.read(text));
    values.set(parameter, list);
  }
  for (const [{ name, repeated }, list] of values) {
    if (!repeated && list.length > 1) problems.invalid.push({ field: name, message: "given more than once" });
    const value = repeated ? list : list[0];
    if (value === undefined) continue;
    given.set(name, value);
    reader.fields.get(name)?.set(message, value, name, problems);
  }
}

function bindBody(
  bytes: Uint8Array,
  binding: Binding,
  fill: MessageReader["fill"],
  message: Message,
  problems: Problems,
  given: ReadonlyMap<string, JsonValue>,
): void {
  const value = bytes.byteLength > 0 ? parseStrictJson(bytes) : {};
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw refusal(ErrorReason.MALFORMED_BODY, "the body is not a JSON object");
  if (binding.hasBody) fill(message, value, "", problems, given);
  // A method without a body reads `{}` as none, and names everything else.
  else problems.unknown.push(...Object.keys(value));
}

function decode(text: string, where: string): string {
  try {
    return decodeURIComponent(where === "query" ? text.replaceAll("+", " ") : text);
  } catch (cause) {
    const error = refusal(ErrorReason.INVALID_ARGUMENT, `the ${where} is not percent-encoded UTF-8`);
    error.cause = cause;
    throw error;
  }
}
