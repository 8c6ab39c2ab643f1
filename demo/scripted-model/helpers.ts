import { blocksOf, isFields, type MessagesRequest } from "./wire.ts";

const titleLength = 40;

function shorten(text: string): string {
  const quoted = /<session>([\s\S]*?)<\/session>/.exec(text)?.[1] ?? text;
  const line = quoted
    .replace(/\[\[[\s\S]*?\]\]|<\/?\w+>/g, " ")
    .replace(/\s+/g, " ")
    .trim();
  return line.slice(0, titleLength) || "Scripted session";
}

/** The simplest value that a JSON schema allows, with `text` wherever it wants free text. */
function sample(schema: unknown, text: string): unknown {
  if (!isFields(schema)) return text;
  if (schema.const !== undefined) return schema.const;
  if (Array.isArray(schema.enum)) return schema.enum[0];
  const choices = schema.anyOf ?? schema.oneOf;
  if (Array.isArray(choices)) return sample(choices[0], text);
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  switch (type) {
    case "object":
      return Object.fromEntries(
        Object.entries(isFields(schema.properties) ? schema.properties : {}).map(([name, field]) => [name, sample(field, text)]),
      );
    case "array":
      return Array.from({ length: Number(schema.minItems ?? 0) }, () => sample(schema.items, text));
    case "boolean":
      return false;
    case "integer":
    case "number":
      return Number(schema.minimum ?? 0);
    case "null":
      return null;
    default:
      return text;
  }
}

/**
 * The answer to a request that the agent makes for its own purposes and no person sees: structured
 * output, a title, a summary of the conversation. Undefined for every other request.
 */
export function answerHelper(request: MessagesRequest, prompt: string, earlierPrompts: string[]): string | undefined {
  const format = request.output_config?.format;
  if (format?.type === "json_schema") return JSON.stringify(sample(format.schema, shorten(prompt)));
  const system = blocksOf(request.system)
    .map((block) => block.text ?? "")
    .join("\n");
  const noTools = (request.tools ?? []).length === 0;
  if (noTools && /\btitles?\b/i.test(system)) return shorten(prompt);
  if (/\bsummary\b/i.test(prompt) && /<summary>/.test(prompt)) {
    return `<summary>\nThe person said: ${earlierPrompts.map((earlier) => JSON.stringify(earlier)).join("; ")}\n</summary>`;
  }
  return undefined;
}
