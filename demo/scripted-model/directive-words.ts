import { z } from "zod";
import type { DirectiveWord } from "./directives.ts";
import type { Step, ToolCall } from "./steps.ts";

type Parser = (body: string) => Step[];

const jsonObject = z.record(z.string(), z.unknown());
const tokenCount = z.number().int().nonnegative();
const usage = z.strictObject({
  input_tokens: tokenCount.optional(),
  cache_creation_input_tokens: tokenCount.optional(),
  cache_read_input_tokens: tokenCount.optional(),
  output_tokens: tokenCount.optional(),
});

/** Shared with the script format: a usage override. */
export const usageSchema = usage;

function need(match: RegExpExecArray | null, form: string): RegExpExecArray {
  if (!match) throw new Error(`the form is ${form}`);
  return match;
}

/** Takes a trailing or leading ` xN` off a body. */
function takeTimes(body: string): { rest: string; times?: number } {
  const match = /(?:^|\s)x(\d+)(?=\s|$)/.exec(body);
  if (!match) return { rest: body };
  return { rest: body.replace(match[0], " ").trim(), times: Number(match[1]) };
}

function parseTool(body: string): Step[] {
  const form = 'tool Name {"input": "as JSON"} with an optional xN';
  const match = need(/^([\w-]+)(?:\s+(\{[\s\S]*\}))?(?:\s+x(\d+))?$/.exec(body), form);
  const call: ToolCall = { name: match[1] ?? "", input: jsonObject.parse(JSON.parse(match[2] ?? "{}")) };
  return Array.from({ length: Number(match[3] ?? 1) }, () => ({ do: "tools", calls: [call] }) satisfies Step);
}

function parseSubAgent(body: string): Step[] {
  if (body === "") throw new Error("the form is subagent followed by its prompt");
  const input = {
    description: "Scripted sub-agent",
    prompt: body,
    subagent_type: "general-purpose",
    // Without this the agent would run it in the background and the turn would end before it.
    run_in_background: false,
  };
  return [{ do: "tools", calls: [{ name: "Agent", input }] }];
}

function parseAsk(body: string): Step[] {
  if (body.startsWith("{")) {
    return [{ do: "tools", calls: [{ name: "AskUserQuestion", input: jsonObject.parse(JSON.parse(body)) }] }];
  }
  const [question = "", ...labels] = body.split("|").map((part) => part.trim());
  if (labels.length < 2 || labels.length > 4) throw new Error("the form is ask Question? | A | B, with 2 to 4 options");
  const options = labels.map((label) => ({ label, description: `Choose ${label}` }));
  const questions = [{ question, header: "Question", options, multiSelect: false }];
  return [{ do: "tools", calls: [{ name: "AskUserQuestion", input: { questions } }] }];
}

function parseSlow(body: string): Step[] {
  const match = need(/^(\d+)(?:\s+tokens)?\s+(\d+)\s*ms$/.exec(body), "slow 200 tokens 20ms");
  const text = Array.from({ length: Number(match[1]) }, (_, index) => `w${index + 1}`).join(" ");
  return [{ do: "text", text, pace: Number(match[2]) }];
}

function parseStatus(body: string): Step[] {
  const { rest, times } = takeTimes(body);
  const match = need(/^(\d{3})((?:\s+[\w-]+=\S+)*)(?:\s+([\s\S]+))?$/.exec(rest), "status 529 x2 retry-after=1 message");
  const headers = Object.fromEntries([...(match[2] ?? "").matchAll(/([\w-]+)=(\S+)/g)].map(([, name, value]) => [name, value]));
  const message = match[3];
  return [{ do: "status", code: Number(match[1]), headers, ...(message && { message }), ...(times && { times }) }];
}

function parseError(body: string): Step[] {
  const { rest, times } = takeTimes(body);
  const match = need(/^(\w+)(?:\s+([\s\S]+))?$/.exec(rest), "error overloaded_error x1 message");
  return [{ do: "error_event", type: match[1] ?? "", ...(match[2] && { message: match[2] }), ...(times && { times }) }];
}

function parseCut(body: string): Step[] {
  const { rest, times } = takeTimes(body);
  const match = need(/^(\d*)$/.exec(rest), "cut 5 x1");
  return [{ do: "cut", after: Number(match[1] || 3), ...(times && { times }) }];
}

const parsers: Record<DirectiveWord, Parser> = {
  text: (body) => [{ do: "text", text: body }],
  think: (body) => [{ do: "think", text: body }],
  tool: parseTool,
  subagent: parseSubAgent,
  ask: parseAsk,
  slow: parseSlow,
  pause: (body) => [{ do: "pause", ms: Number(need(/^(\d+)\s*(?:ms)?$/.exec(body), "pause 500ms")[1]) }],
  status: parseStatus,
  error: parseError,
  cut: parseCut,
  hang: (body) => [{ do: "hang", ...(takeTimes(body).times && { times: takeTimes(body).times ?? 1 }) }],
  usage: (body) => [{ do: "usage", usage: definedOnly(usage.parse(JSON.parse(body))) }],
  stop: (body) => [{ do: "stop", reason: need(/^\w+$/.exec(body), "stop max_tokens")[0] }],
};

/** An object without the keys whose value is undefined, as exact optional properties want it. */
export function definedOnly<T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

/** Parses what stands after the directive's word. Throws an error that says the right form. */
export function parseBody(word: DirectiveWord, body: string): Step[] {
  return parsers[word](body);
}
