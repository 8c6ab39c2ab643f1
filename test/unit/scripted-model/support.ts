import { onTestFinished } from "vitest";
import { createScriptedModel, type ScriptedModel, type ScriptedModelOptions } from "../../../demo/scripted-model/server.ts";

export const apiKey = "sk-ant-api-test";
export const oauthToken = "sk-ant-oat-test";

/** A scripted model that ends with the test. */
export async function startModel(options: Partial<ScriptedModelOptions> = {}): Promise<ScriptedModel> {
  const model = await createScriptedModel({ apiKeys: [apiKey], oauthTokens: [oauthToken], ...options });
  onTestFinished(() => model.close());
  return model;
}

export const headers = { "content-type": "application/json", "x-api-key": apiKey, "anthropic-version": "2023-06-01" };

export function bodyWith(fields: Record<string, unknown> = {}): Record<string, unknown> {
  return { model: "claude-opus-5-5", max_tokens: 1000, messages: [{ role: "user", content: "hi" }], ...fields };
}

export function saying(prompt: string, fields: Record<string, unknown> = {}): Record<string, unknown> {
  return bodyWith({ messages: [{ role: "user", content: prompt }], ...fields });
}

export function post(model: ScriptedModel, body: unknown, init: RequestInit & { path?: string } = {}): Promise<Response> {
  const { path = "/v1/messages?beta=true", ...rest } = init;
  const text = typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body);
  return fetch(model.url + path, { method: "POST", headers, body: text as BodyInit, ...rest });
}

export interface StreamEvent {
  type: string;
  [field: string]: unknown;
}

/** The events of a stream; checks that each names its type twice, as the provider's do. */
export function parseEvents(text: string): StreamEvent[] {
  return text
    .split("\n\n")
    .filter(Boolean)
    .map((block) => {
      const match = /^event: (\w+)\ndata: (.*)$/.exec(block);
      const data = JSON.parse(match?.[2] ?? "null") as StreamEvent | null;
      if (!data || data.type !== match?.[1]) throw new Error(`not an event: ${block}`);
      return data;
    });
}

/** The text of a whole (not streamed) answer. */
export async function textOf(response: Response): Promise<string> {
  const { content } = (await response.json()) as { content: { type: string; text?: string }[] };
  return content.map((block) => block.text ?? "").join("");
}
