import { blocksOf, type ContentBlock, type Message, type MessagesRequest } from "./wire.ts";

/** One tool call that the newest message of a request answers. */
export interface AnsweredCall {
  name: string;
  text: string;
  isError: boolean;
}

/** What a request says about where its conversation stands; a pure reading, nothing is remembered. */
export interface Conversation {
  /** The agent's session, or empty for a client that names none. */
  session: string;
  /** The sub-agent that asks; undefined for the main agent. */
  agent: string | undefined;
  model: string;
  /** The newest thing a person (or the parent agent) said, without system reminders. */
  prompt: string;
  /** 1 for the first prompt. */
  promptNumber: number;
  earlierPrompts: string[];
  earlierAnswers: string[];
  /** How many of the answers to this prompt ended in tool calls whose results have come back. */
  rounds: number;
  /** The calls answered by the newest results, in the order of the calls; empty when a fresh prompt is newest. */
  answered: AnsweredCall[];
  /** Messages a person sent while the agent was at work on the prompt; the agent passes them on as system messages. */
  steered: string[];
  /** How often the agent asked to go on with the answer at hand because it broke off. */
  continuations: number;
  /** Names of the tools on offer. */
  tools: string[];
}

// What the agent puts beside a person's words: reminders, and the record of its own slash commands.
const inserted = /<(system-reminder|local-command-(?:caveat|stdout|stderr)|command-(?:name|message|args))>[\s\S]*?<\/\1>/g;
// Notes that the agent itself writes in the user's place; none of them is a prompt.
const agentNotes = [
  /^\[(Request interrupted|Tool call did not complete|Agent call interrupted)/,
  /^Continue from where you left off\.$/,
  /^This session's worker process was restarted\./,
  /^This session was restarted while a tool call waited/,
  /^This session is being continued from a previous conversation/,
];
const continuation = /^(Your response (above )?was cut off|Output token limit hit)/;
const steering = /^The user sent a new message while you were working:\n([\s\S]*?)(?=\n\nThis is how|$(?![\s\S]))/gm;

function plain(text: string): string {
  return text.replace(inserted, "").trim();
}

function textOf(content: string | ContentBlock[] | undefined): string {
  return plain(
    blocksOf(content)
      .map((block) => block.text ?? "")
      .join("\n"),
  );
}

function textsIn(message: Message, role: Message["role"]): string[] {
  if (message.role !== role) return [];
  const texts = blocksOf(message.content).filter((block) => block.type === "text");
  return texts.map((block) => plain(block.text ?? "")).filter((text) => text !== "");
}

function promptsIn(message: Message): string[] {
  return textsIn(message, "user").filter((text) => ![...agentNotes, continuation].some((note) => note.test(text)));
}

function steeredIn(message: Message): string[] {
  return textsIn(message, "system").flatMap((text) => [...text.matchAll(steering)].map((match) => match[1] ?? ""));
}

function resultsIn(message: Message): ContentBlock[] {
  return message.role === "user" ? blocksOf(message.content).filter((block) => block.type === "tool_result") : [];
}

/** Results of parallel calls arrive in the order in which they finished, which differs from run to run. */
function inCallOrder(results: ContentBlock[], ids: string[]): ContentBlock[] {
  return results.toSorted((one, other) => ids.indexOf(one.tool_use_id ?? "") - ids.indexOf(other.tool_use_id ?? ""));
}

function isSubAgent(request: MessagesRequest): boolean {
  return blocksOf(request.system).some((block) => block.text?.includes("cc_is_subagent=true"));
}

/** Reads a checked request. `headers` are those of the HTTP request, in lower case. */
export function readConversation(request: MessagesRequest, headers: Readonly<Record<string, string | string[] | undefined>>): Conversation {
  const { messages } = request;
  const promptAt = messages.findLastIndex((message) => promptsIn(message).length > 0);
  const prompts = messages.flatMap(promptsIn);
  const after = messages.slice(promptAt + 1);
  const before = messages.slice(0, Math.max(promptAt, 0));
  const names = new Map(messages.flatMap((message) => blocksOf(message.content)).map((block) => [block.id ?? "", block.name ?? ""]));
  const newest = after.findLast((message) => resultsIn(message).length > 0);
  const sinceResults = newest ? after.slice(after.indexOf(newest) + 1) : after;
  return {
    session: String(headers["x-claude-code-session-id"] ?? ""),
    agent: headers["x-claude-code-agent-id"]?.toString() ?? (isSubAgent(request) ? "unnamed" : undefined),
    model: request.model,
    prompt: prompts.at(-1) ?? "",
    promptNumber: prompts.length,
    earlierPrompts: prompts.slice(0, -1),
    earlierAnswers: before
      .filter(({ role }) => role === "assistant")
      .map(({ content }) => textOf(content))
      .filter(Boolean),
    rounds: after.filter((message) => resultsIn(message).length > 0).length,
    answered: inCallOrder(newest ? resultsIn(newest) : [], [...names.keys()]).map((block) => ({
      name: names.get(block.tool_use_id ?? "") ?? "",
      text: textOf(block.content),
      isError: block.is_error === true,
    })),
    steered: after.flatMap(steeredIn),
    continuations: sinceResults.flatMap((message) => textsIn(message, "user")).filter((text) => continuation.test(text)).length,
    tools: (request.tools ?? []).map((tool) => tool.name ?? ""),
  };
}
