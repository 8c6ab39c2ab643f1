import { createHash } from "node:crypto";
import type { Conversation } from "./conversation.ts";
import { DirectiveError, parseDirectives } from "./directives.ts";
import { answerHelper } from "./helpers.ts";
import type { Counters } from "./memory.ts";
import type { Rule, Script } from "./script.ts";
import { isFault, resumeAt, type Step, splitAnswers } from "./steps.ts";
import type { MessagesRequest } from "./wire.ts";

const quoteLimit = 4_000;
const closing: Step = { do: "text", text: 'Done. The last tool result was: "{{tool_result}}"' };
const closingWithoutTool: Step = { do: "text", text: "Done." };

/**
 * Decides the answer to a request: the agent's own helper requests first, then directives in the
 * newest prompt, then the first rule of the script that matches. Where in the steps the
 * conversation stands is read from the request alone, so that retries and resumes are right.
 */
export function planAnswer(request: MessagesRequest, conversation: Conversation, script: Script | undefined, counters: Counters): Step[] {
  const { prompt } = conversation;
  const helper = answerHelper(request, prompt, conversation.earlierPrompts);
  if (helper !== undefined) return [{ do: "text", text: helper }];
  const steps = directed(conversation) ?? ruled(conversation, script, counters);
  return dueSteps(steps, conversation, counters).map((step) => fillStep(step, conversation));
}

/**
 * The steps of an answer that are still to be done: from where it broke off, without the faults
 * that have happened often enough at this place, and up to the first fault.
 */
function dueSteps(steps: Step[], conversation: Conversation, counters: Counters): Step[] {
  const { session, agent = "", prompt, promptNumber, rounds, continuations } = conversation;
  // The prompt tells clients apart that name no session.
  const place = [session, agent, createHash("sha256").update(prompt).digest("base64"), promptNumber, rounds].join("/");
  const from = continuations > 0 ? resumeAt(steps) : 0;
  const due: Step[] = [];
  for (const [index, step] of steps.entries()) {
    if (index < from && step.do !== "usage") continue;
    if (!isFault(step)) due.push(step);
    else if (step.times === undefined || counters.use(`fault/${place}/${index}`, step.times)) return [...due, step];
  }
  return due;
}

function close(conversation: Conversation): Step {
  return conversation.rounds > 0 ? closing : closingWithoutTool;
}

function directed(conversation: Conversation): Step[] | undefined {
  try {
    const steps = parseDirectives(conversation.prompt);
    if (!steps) return undefined;
    steps.push(...conversation.steered.flatMap((message) => parseDirectives(message) ?? []));
    return splitAnswers(steps)[conversation.rounds] ?? [close(conversation)];
  } catch (error) {
    if (!(error instanceof DirectiveError)) throw error;
    return [{ do: "text", text: `Directive not understood: ${error.message}` }];
  }
}

function ruled(conversation: Conversation, script: Script | undefined, counters: Counters): Step[] {
  for (const [index, rule] of (script?.rules ?? []).entries()) {
    if (!matches(rule, conversation)) continue;
    const begins = conversation.rounds === 0 || speaksToResult(rule);
    // A rule without a word on results goes on where its tool call left it; others start afresh.
    const steps = splitAnswers(rule.reply)[begins ? 0 : conversation.rounds];
    if (!steps) continue;
    const key = `rule/${conversation.session}/${conversation.agent ?? ""}/${index}`;
    if (begins && rule.times !== undefined && !counters.use(key, rule.times)) continue;
    return steps;
  }
  return [close(conversation)];
}

function speaksToResult({ when }: Rule): boolean {
  return when.answering !== undefined || when.tool_result !== undefined || when.tool_error !== undefined;
}

function matches(rule: Rule, conversation: Conversation): boolean {
  const { when } = rule;
  const { prompt, answered } = conversation;
  const has = (text: string, part: string) => text.toLowerCase().includes(part.toLowerCase());
  return (
    (when.prompt === undefined || has(prompt, when.prompt)) &&
    (when.prompt_matches === undefined || when.prompt_matches.test(prompt)) &&
    (when.turn === undefined || when.turn === conversation.promptNumber) &&
    (when.model === undefined || has(conversation.model, when.model)) &&
    (when.subagent === undefined || when.subagent === (conversation.agent !== undefined)) &&
    (when.offers === undefined || conversation.tools.includes(when.offers)) &&
    (!speaksToResult(rule) ||
      answered.some(
        (call) =>
          (when.answering === undefined || call.name === when.answering) &&
          (when.tool_result === undefined || has(call.text, when.tool_result)) &&
          (when.tool_error === undefined || call.isError === when.tool_error),
      ))
  );
}

function fillStep(step: Step, conversation: Conversation): Step {
  if (step.do === "text" || step.do === "think") return { ...step, text: fill(step.text, conversation) };
  if (step.do !== "tools") return step;
  // The agent lists its sub-agent tool as Task in places, and older versions offered it by that name.
  const offered = (name: string) =>
    name === "Agent" && !conversation.tools.includes("Agent") && conversation.tools.includes("Task") ? "Task" : name;
  return { ...step, calls: step.calls.map((call) => ({ ...call, name: offered(call.name) })) };
}

function fill(template: string, conversation: Conversation): string {
  const values: Record<string, string> = {
    prompt: conversation.prompt,
    tool_result: conversation.answered.map((call) => call.text).join("\n"),
    earlier: conversation.earlierPrompts.map((prompt) => JSON.stringify(prompt)).join("; ") || "nothing",
    earlier_answers: conversation.earlierAnswers.map((answer) => JSON.stringify(answer)).join("; ") || "nothing",
    n: String(conversation.promptNumber),
    model: conversation.model,
  };
  return template.replace(/\{\{(\w+)\}\}/g, (whole, name: string) => values[name]?.slice(0, quoteLimit) ?? whole);
}
