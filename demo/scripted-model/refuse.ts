import { ApiError, invalid } from "./errors.ts";
import { checkConversation } from "./refuse-conversation.ts";
import { isFields, type MessagesRequest } from "./wire.ts";

type Fields = Record<string, unknown>;

const shared = [
  "model",
  "messages",
  "billing_policy",
  "cache_control",
  "compaction",
  "context_management",
  "mcp_servers",
  "output_config",
  "output_format",
  "speed",
  "system",
  "thinking",
  "tool_choice",
  "tools",
];
// Gone from the API with version 2026-10-21.
const samplingFields = ["temperature", "top_k", "top_p"];
const known = {
  messages: new Set([
    ...shared,
    "max_tokens",
    "container",
    "diagnostics",
    "fallback_credit_token",
    "fallbacks",
    "inference_geo",
    "metadata",
    "service_tier",
    "stop_sequences",
    "stream",
    "thread",
    ...samplingFields,
  ]),
  count_tokens: new Set(shared),
};
const toolName = /^[a-zA-Z0-9_-]{1,128}$/;
const cacheBreakpointLimit = 4;

/**
 * Refuses what the provider refuses, in its words where they are known, so that a gateway or an
 * agent that mangles a request fails a test here and not in front of a person.
 * Throws `ApiError`.
 */
export function checkRequest(body: unknown, endpoint: keyof typeof known, version: string): MessagesRequest {
  if (!isFields(body)) throw invalid("Input should be a valid dictionary");
  for (const name of ["model", ...(endpoint === "messages" ? ["max_tokens"] : []), "messages"]) {
    if (body[name] === undefined) throw invalid(`${name}: Field required`);
  }
  for (const name of Object.keys(body)) {
    const removed = version >= "2026-10-21" && samplingFields.includes(name);
    if (removed || !known[endpoint].has(name)) throw invalid(`${name}: Extra inputs are not permitted`);
  }
  checkModel(body.model);
  if (endpoint === "messages") checkLimits(body);
  checkTools(body);
  checkConversation(body.messages);
  checkCacheBreakpoints(body);
  return body as unknown as MessagesRequest;
}

function checkModel(model: unknown): void {
  if (typeof model !== "string" || model === "") throw invalid("model: Input should be a valid string");
  if (!model.startsWith("claude-")) throw new ApiError(404, "not_found_error", `model: ${model}`);
}

function checkLimits(body: Fields): void {
  const { max_tokens: most, thinking, stream, temperature } = body;
  if (!Number.isInteger(most)) throw invalid("max_tokens: Input should be a valid integer");
  if ((most as number) < 1) throw invalid("max_tokens: must be greater than or equal to 1");
  if (stream !== undefined && typeof stream !== "boolean") throw invalid("stream: Input should be a valid boolean");
  if (temperature !== undefined && !(typeof temperature === "number" && temperature >= 0 && temperature <= 1)) {
    throw invalid("temperature: range: 0..1");
  }
  if (!isFields(thinking) || thinking.type !== "enabled") return;
  if (typeof thinking.budget_tokens !== "number" || thinking.budget_tokens < 1024) {
    throw invalid("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024");
  }
  if (thinking.budget_tokens >= (most as number)) {
    throw invalid("`max_tokens` must be greater than `thinking.budget_tokens`");
  }
}

function checkTools(body: Fields): void {
  const tools = body.tools ?? [];
  if (!Array.isArray(tools)) throw invalid("tools: Input should be a valid list");
  const names = new Set<string>();
  for (const [index, tool] of tools.entries()) {
    if (!isFields(tool)) throw invalid(`tools.${index}: Input should be a valid dictionary`);
    const custom = tool.type === undefined || tool.type === null || tool.type === "custom";
    if (custom) checkCustomTool(tool, index);
    if (typeof tool.name !== "string") continue;
    if (names.has(tool.name)) throw invalid("tools: Tool names must be unique.");
    names.add(tool.name);
  }
  const choice = body.tool_choice;
  if (isFields(choice) && choice.type === "tool" && !names.has(String(choice.name))) {
    throw invalid(`Tool '${String(choice.name)}' not found in provided tools`);
  }
}

function checkCustomTool(tool: Fields, index: number): void {
  const at = `tools.${index}.custom`;
  if (tool.name === undefined) throw invalid(`${at}.name: Field required`);
  if (typeof tool.name !== "string" || !toolName.test(tool.name)) {
    throw invalid(`${at}.name: String should match pattern '${toolName.source}'`);
  }
  if (!isFields(tool.input_schema)) throw invalid(`${at}.input_schema: Field required`);
  if (tool.input_schema.type !== "object") throw invalid(`${at}.input_schema.type: Input should be 'object'`);
}

function checkCacheBreakpoints(body: Fields): void {
  const count = countBreakpoints([body.system, body.tools, body.messages], 0);
  if (count > cacheBreakpointLimit) {
    throw invalid(`A maximum of ${cacheBreakpointLimit} blocks with cache_control may be provided. Found ${count}.`);
  }
}

/** The depth is that of system → blocks, tools, and messages → content → tool result → blocks. */
function countBreakpoints(value: unknown, depth: number): number {
  if (depth > 6) return 0;
  if (Array.isArray(value)) return value.reduce((sum: number, item) => sum + countBreakpoints(item, depth + 1), 0);
  if (!isFields(value)) return 0;
  return (isFields(value.cache_control) ? 1 : 0) + countBreakpoints(value.content, depth + 1);
}
