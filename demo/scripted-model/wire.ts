/**
 * The part of the provider's Messages API that the scripted model reads and writes.
 *
 * Requests reach these types only after `refuse.ts` has checked them, so the optional fields are
 * the ones the API itself leaves optional.
 */

export interface ContentBlock {
  type: string;
  text?: string;
  thinking?: string;
  signature?: string;
  id?: string;
  name?: string;
  input?: unknown;
  tool_use_id?: string;
  content?: string | ContentBlock[];
  is_error?: boolean;
  cache_control?: unknown;
}

export interface Message {
  role: "user" | "assistant" | "system";
  content?: string | ContentBlock[];
}

export interface Tool {
  name?: string;
  type?: string;
}

export interface MessagesRequest {
  model: string;
  max_tokens?: number;
  messages: Message[];
  system?: string | ContentBlock[];
  tools?: Tool[];
  thinking?: { type: string; display?: string | null };
  output_config?: { format?: { type: string; schema?: unknown } };
  stream?: boolean;
}

/** Token counts as a script may override them; absent fields are estimated from the request. */
export interface Usage {
  input_tokens: number;
  cache_creation_input_tokens: number;
  cache_read_input_tokens: number;
  output_tokens: number;
}

/** Message content in its long form: the API allows a plain string for a single text block. */
export function blocksOf(content: string | ContentBlock[] | undefined): ContentBlock[] {
  if (content === undefined) return [];
  return typeof content === "string" ? [{ type: "text", text: content }] : content;
}

/** True for a plain JSON object. */
export function isFields(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
