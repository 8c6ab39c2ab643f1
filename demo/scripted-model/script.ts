import { parse } from "yaml";
import { z } from "zod";
import { definedOnly, usageSchema } from "./directive-words.ts";
import type { Step } from "./steps.ts";

const text = z.string().min(1);
const times = z.number().int().positive().optional();
const milliseconds = z.number().int().nonnegative();
const tokens = z.number().int().nonnegative();
const call = z.strictObject({ name: text, input: z.record(z.string(), z.unknown()).default({}) });

/** A step as written: one key that says what to do. */
const written = z.union([
  z.strictObject({ think: text }),
  z.strictObject({ text: z.union([text, z.strictObject({ text, pace: milliseconds.optional() })]) }),
  z.strictObject({ tool: call }),
  z.strictObject({ tools: z.array(call).min(1) }),
  z.strictObject({ pause: milliseconds }),
  z.strictObject({
    status: z.strictObject({
      code: z.number().int().min(400).max(599),
      type: text.optional(),
      message: text.optional(),
      headers: z.record(z.string(), z.coerce.string()).default({}),
      times,
    }),
  }),
  z.strictObject({ hang: z.union([z.literal(true), z.strictObject({ times })]) }),
  z.strictObject({ cut: z.union([tokens, z.strictObject({ after: tokens, times })]) }),
  z.strictObject({ error_event: z.strictObject({ type: text, message: text.optional(), times }) }),
  z.strictObject({ usage: usageSchema }),
  z.strictObject({ stop: text }),
]);

const pattern = text.transform((source, context) => {
  try {
    return new RegExp(source, "i");
  } catch (cause) {
    context.addIssue({ code: "custom", message: cause instanceof Error ? cause.message : "not a pattern" });
    return z.NEVER;
  }
});

const condition = z.strictObject({
  /** The newest prompt contains this, whatever the case. */
  prompt: text.optional(),
  /** The newest prompt matches this regular expression, whatever the case. */
  prompt_matches: pattern.optional(),
  /** The newest message answers a call of this tool. */
  answering: text.optional(),
  /** The newest message answers a tool call, and the result contains this. */
  tool_result: text.optional(),
  /** The newest message answers a tool call that failed or was denied (`true`), or that worked (`false`). */
  tool_error: z.boolean().optional(),
  /** The number of the newest prompt, from 1. */
  turn: z.number().int().positive().optional(),
  /** The model's name contains this. */
  model: text.optional(),
  /** A sub-agent asks (`true`), or the main agent (`false`). */
  subagent: z.boolean().optional(),
  /** A tool of this name is on offer. */
  offers: text.optional(),
});

const scriptSchema = z.strictObject({
  /** What the script is, for its reader. */
  name: text,
  /** Milliseconds between two tokens; the server's own setting wins. */
  pace: milliseconds.optional(),
  rules: z.array(
    z.strictObject({
      when: condition.default({}),
      /** How often this rule may begin a reply in one conversation; then the rules below it get their turn. */
      times,
      reply: z
        .array(written)
        .min(1)
        .transform((steps) => steps.map(toStep)),
    }),
  ),
});

export type Script = z.output<typeof scriptSchema>;
export type Rule = Script["rules"][number];

function toStep(step: z.output<typeof written>): Step {
  if ("think" in step) return { do: "think", text: step.think };
  if ("text" in step) {
    const said = typeof step.text === "string" ? { text: step.text } : step.text;
    return { do: "text", ...definedOnly(said), text: said.text };
  }
  if ("tool" in step) return { do: "tools", calls: [step.tool] };
  if ("tools" in step) return { do: "tools", calls: step.tools };
  if ("pause" in step) return { do: "pause", ms: step.pause };
  if ("status" in step) {
    const { code, headers, ...rest } = step.status;
    return { do: "status", code, headers, ...definedOnly(rest) };
  }
  if ("hang" in step) return { do: "hang", ...(step.hang === true ? {} : definedOnly(step.hang)) };
  if ("cut" in step) {
    const cut = typeof step.cut === "number" ? { after: step.cut } : step.cut;
    return { do: "cut", ...definedOnly(cut), after: cut.after };
  }
  if ("error_event" in step) return { do: "error_event", ...definedOnly(step.error_event), type: step.error_event.type };
  if ("usage" in step) return { do: "usage", usage: definedOnly(step.usage) };
  return { do: "stop", reason: step.stop };
}

/** Reads a script from YAML. Throws with every problem and its place when it is not one. */
export function parseScript(yaml: string): Script {
  const parsed = scriptSchema.safeParse(parse(yaml));
  if (parsed.success) return parsed.data;
  throw new Error(`the script is not valid:\n${z.prettifyError(parsed.error)}`);
}
