import { type DescField, type DescMessage, type DescMethod, getOption, hasOption } from "@bufbuild/protobuf";
import { http } from "../../../gen/google/api/annotations_pb.ts";
import type { HttpRule } from "../../../gen/google/api/http_pb.ts";

/** One way into a method. */
export type Binding = {
  /** `GET`, `POST`, … */
  verb: string;
  /** As written, for example `/v1/sessions/{session_id}`. */
  template: string;
  /** Names of the path variables, in order. */
  variables: readonly string[];
  /** True when the body carries every field that the path does not. */
  hasBody: boolean;
  /** The field whose own fields stand flat in the body, beside those of the request. */
  flat?: FlatField;
};

/** A message field of a request, with its message. */
export type FlatField = DescField & { fieldKind: "message"; message: DescMessage };

/** What a path leads to: a value per verb and the raw path variables. */
export type Match<T> = { verbs: ReadonlyMap<string, T>; values: readonly string[] };

const verbs = { get: "GET", put: "PUT", post: "POST", delete: "DELETE", patch: "PATCH" } as const;

/** The bindings of a method's google.api.http option; none without it. Throws for forms of the option that are not served. */
export function bindingsOf(method: DescMethod): Binding[] {
  if (!hasOption(method, http)) return [];
  const rule = getOption(method, http);
  return [rule, ...rule.additionalBindings].map((one) => bindingOf(method, one));
}

function bindingOf(method: DescMethod, rule: HttpRule): Binding {
  const { pattern, body, responseBody } = rule;
  if (pattern.case === undefined || pattern.case === "custom")
    throw new Error(`${method.toString()}: google.api.http names no verb that is served`);
  if (responseBody !== "") throw new Error(`${method.toString()}: response_body is not served`);
  const variables = segmentsOf(pattern.value).flatMap((segment) => variableOf(segment) ?? []);
  for (const variable of variables) {
    if (!method.input.fields.some((field) => field.name === variable)) throw new Error(`${method.toString()}: no field ${variable}`);
  }
  const binding = { verb: verbs[pattern.case], template: pattern.value, variables, hasBody: body !== "" };
  return body === "" || body === "*" ? binding : { ...binding, flat: flatField(method, body) };
}

function flatField(method: DescMethod, name: string): FlatField {
  const field = method.input.fields.find((one) => one.name === name);
  if (field?.fieldKind !== "message") throw new Error(`${method.toString()}: body "${name}" is no message field of the request`);
  return field;
}

type Node<T> = { literals: Map<string, Node<T>>; variable: Node<T> | undefined; verbs: Map<string, T> };

/** A tree of path segments. A literal segment wins over a variable one. */
export function createRoutes<T>(): { add(binding: Binding, value: T): void; find(path: string): Match<T> | undefined } {
  const root = newNode<T>();
  return {
    add(binding, value) {
      let node = root;
      for (const segment of segmentsOf(binding.template)) node = childOf(node, segment);
      if (node.verbs.has(binding.verb)) throw new Error(`${binding.verb} ${binding.template} is bound twice`);
      node.verbs.set(binding.verb, value);
    },
    find(path) {
      const values: string[] = [];
      const node = descend(root, path.slice(1).split("/"), 0, values);
      return node && { verbs: node.verbs, values };
    },
  };
}

function descend<T>(node: Node<T>, segments: string[], index: number, values: string[]): Node<T> | undefined {
  const segment = segments[index];
  if (segment === undefined) return node.verbs.size > 0 ? node : undefined;
  const literal = node.literals.get(segment);
  const found = literal && descend(literal, segments, index + 1, values);
  if (found) return found;
  if (!node.variable || segment === "") return undefined;
  values.push(segment);
  const deeper = descend(node.variable, segments, index + 1, values);
  if (!deeper) values.pop();
  return deeper;
}

function newNode<T>(): Node<T> {
  return { literals: new Map(), variable: undefined, verbs: new Map() };
}

function childOf<T>(node: Node<T>, segment: string): Node<T> {
  if (variableOf(segment) !== undefined) return (node.variable ??= newNode());
  const known = node.literals.get(segment) ?? newNode<T>();
  node.literals.set(segment, known);
  return known;
}

function segmentsOf(template: string): string[] {
  if (!/^(\/([a-z0-9_.-]+|\{[a-z0-9_]+\}))+$/.test(template)) throw new Error(`${template} is not a path template that is served`);
  return template.slice(1).split("/");
}

function variableOf(segment: string): string | undefined {
  return segment.startsWith("{") ? segment.slice(1, -1) : undefined;
}
