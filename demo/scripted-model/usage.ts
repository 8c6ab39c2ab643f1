import { blocksOf, type MessagesRequest, type Usage } from "./wire.ts";

const charactersPerToken = 4;

function tokensIn(value: unknown): number {
  return value === undefined ? 0 : Math.ceil(JSON.stringify(value).length / charactersPerToken);
}

/** What the token counting endpoint answers; the same estimate that usage is made of. */
export function countTokens(request: MessagesRequest): number {
  return tokensIn(request.system) + tokensIn(request.tools) + tokensIn(request.messages);
}

/**
 * Usage as the provider would report it, deterministic: when the request asks for caching, all up
 * to the last answer is read from the cache and the rest is written to it, but for the newest block.
 */
export function estimateUsage(request: MessagesRequest): Omit<Usage, "output_tokens"> {
  const total = countTokens(request);
  if (!JSON.stringify(request).includes('"cache_control"')) {
    return { input_tokens: total, cache_creation_input_tokens: 0, cache_read_input_tokens: 0 };
  }
  const lastAnswer = request.messages.findLastIndex(({ role }) => role === "assistant");
  const prefix = lastAnswer === -1 ? 0 : tokensIn(request.system) + tokensIn(request.tools);
  const read = prefix + (lastAnswer === -1 ? 0 : tokensIn(request.messages.slice(0, lastAnswer)));
  const fresh = Math.min(tokensIn(blocksOf(request.messages.at(-1)?.content).at(-1)), total - read);
  return {
    input_tokens: fresh,
    cache_creation_input_tokens: total - read - fresh,
    cache_read_input_tokens: read,
  };
}

/** The usage object of a whole message and of `message_start`. */
export function usageField(usage: Usage) {
  return {
    ...usage,
    cache_creation: { ephemeral_5m_input_tokens: usage.cache_creation_input_tokens, ephemeral_1h_input_tokens: 0 },
    server_tool_use: null,
    service_tier: "standard" as const,
  };
}

/** Output tokens of a tool call's input or of any other text. */
export function tokensOfText(text: string): number {
  return Math.max(1, Math.ceil(text.length / charactersPerToken));
}
