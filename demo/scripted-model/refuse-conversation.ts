import { invalid } from "./errors.ts";
import { verifyThinking } from "./signature.ts";
import { blocksOf, type ContentBlock, isFields, type Message } from "./wire.ts";

const serverResults = [
  "server_tool_use",
  "web_search_tool_result",
  "web_fetch_tool_result",
  "advisor_tool_result",
  "code_execution_tool_result",
  "bash_code_execution_tool_result",
  "text_editor_code_execution_tool_result",
  "tool_search_tool_result",
  "mcp_tool_use",
  "mcp_tool_result",
  "container_upload",
  "compaction",
  "fallback",
];
const blockTypes: Record<Message["role"], Set<string>> = {
  user: new Set(["text", "image", "document", "search_result", "tool_result", ...serverResults]),
  assistant: new Set(["text", "thinking", "redacted_thinking", "tool_use", ...serverResults]),
  system: new Set(["text", "tool_addition", "tool_removal"]),
};

/**
 * Refuses a conversation the provider would refuse: roles, blocks, the pairing of tool calls with
 * their results, altered thinking. Mid-conversation `system` messages are accepted anywhere but in
 * front, and do not separate a tool call from its result: the agent sends them and nothing public
 * says more. Throws `ApiError`.
 */
export function checkConversation(messages: unknown): asserts messages is Message[] {
  if (!Array.isArray(messages)) throw invalid("messages: Input should be a valid list");
  if (messages.length === 0) throw invalid("messages: at least one message is required");
  for (const [index, message] of messages.entries()) checkMessage(message, index);
  if (messages[0].role !== "user") throw invalid('messages: first message must use the "user" role');
  checkPairs(messages as Message[]);
  const last = (messages as Message[]).findLast((message) => message.role !== "system");
  if (last?.role === "assistant") {
    throw invalid("This model does not support assistant message prefill. The conversation must end with a user message.");
  }
}

function checkMessage(message: unknown, index: number): asserts message is Message {
  const at = `messages.${index}`;
  if (!isFields(message)) throw invalid(`${at}: Input should be a valid dictionary`);
  const { role, content } = message;
  if (role === undefined) throw invalid(`${at}.role: Field required`);
  if (role !== "user" && role !== "assistant" && role !== "system") {
    throw invalid(`messages: Unexpected role "${String(role)}". Allowed roles are "user", "assistant" or "system"`);
  }
  const settingOnly = role === "system" && isFields(message.output_config);
  if (settingOnly && (content === undefined || (Array.isArray(content) && content.length === 0) || content === "")) return;
  if (content === undefined) throw invalid(`${at}.content: Field required`);
  if (typeof content !== "string" && !Array.isArray(content)) {
    throw invalid(`${at}.content: Input should be a valid string or list`);
  }
  if (content.length === 0) {
    throw invalid(`${at}: all messages must have non-empty content except for the optional final assistant message`);
  }
  if (typeof content === "string") return;
  for (const [position, block] of content.entries()) checkBlock(block, role, `${at}.content.${position}`);
}

function checkBlock(block: unknown, role: Message["role"], at: string): void {
  if (!isFields(block)) throw invalid(`${at}: Input should be a valid dictionary`);
  if (block.type === undefined) throw invalid(`${at}.type: Field required`);
  const allowed = blockTypes[role];
  if (!allowed.has(String(block.type))) {
    const tags = [...allowed].map((tag) => `'${tag}'`).join(", ");
    throw invalid(`${at}: Input tag '${String(block.type)}' found using 'type' does not match any of the expected tags: ${tags}`);
  }
  if (block.type === "text") checkText(block.text, at);
  if (block.type === "thinking") checkThinking(block, at);
  if (block.type === "tool_use") {
    for (const name of ["id", "name", "input"]) {
      if (block[name] === undefined) throw invalid(`${at}.tool_use.${name}: Field required`);
    }
    if (!isFields(block.input)) throw invalid(`${at}.tool_use.input: Input should be a valid dictionary`);
  }
  if (block.type === "tool_result" && typeof block.tool_use_id !== "string") {
    throw invalid(`${at}.tool_result.tool_use_id: Field required`);
  }
}

function checkText(text: unknown, at: string): void {
  if (typeof text !== "string") throw invalid(`${at}.text.text: Field required`);
  if (text === "") throw invalid("messages: text content blocks must be non-empty");
}

function checkThinking(block: Record<string, unknown>, at: string): void {
  const { thinking, signature } = block;
  if (typeof thinking !== "string") throw invalid(`${at}.thinking.thinking: Field required`);
  if (typeof signature !== "string") throw invalid(`${at}.thinking.signature: Field required`);
  if (!verifyThinking(thinking, signature)) throw invalid(`${at}: Invalid \`signature\` in \`thinking\` block`);
}

function checkPairs(messages: Message[]): void {
  const turns = messages.map((message, index) => ({ ...message, index })).filter(({ role }) => role !== "system");
  const seen = new Set<string>();
  let open: string[] = [];
  for (const [position, { role, content, index }] of turns.entries()) {
    const blocks = blocksOf(content);
    const answered = answeredBy(blocks, role === "user" ? open : [], index);
    const missing = open.filter((id) => !answered.has(id));
    if (missing.length > 0) throw unanswered(missing, turns[position - 1]?.index ?? index);
    open = blocks.filter((block) => block.type === "tool_use").map((block) => String(block.id));
    for (const id of open) {
      if (seen.has(id)) throw invalid(`messages.${index}: \`tool_use\` ids must be unique`);
      seen.add(id);
    }
  }
  if (open.length > 0) throw unanswered(open, turns.at(-1)?.index ?? 0);
}

/** The tool calls answered by the leading results of a message; results must come before other content. */
function answeredBy(blocks: ContentBlock[], open: string[], index: number): Set<string> {
  const answered = new Set<string>();
  let leading = true;
  for (const [position, block] of blocks.entries()) {
    if (block.type !== "tool_result") {
      leading = false;
      continue;
    }
    const id = String(block.tool_use_id);
    if (!open.includes(id)) {
      throw invalid(
        `messages.${index}.content.${position}: unexpected \`tool_use_id\` found in \`tool_result\` blocks: ${id}. ` +
          "Each `tool_result` block must have a corresponding `tool_use` block in the previous message.",
      );
    }
    if (answered.has(id)) {
      throw invalid(
        `messages.${index}.content.${position}: each tool_use must have a single result. ` +
          `Found multiple \`tool_result\` blocks with id: ${id}`,
      );
    }
    if (leading) answered.add(id);
  }
  return answered;
}

function unanswered(ids: string[], index: number) {
  return invalid(
    `messages.${index}: \`tool_use\` ids were found without \`tool_result\` blocks immediately after: ` +
      `${ids.join(", ")}. Each \`tool_use\` block must have a corresponding \`tool_result\` block in the next message.`,
  );
}
