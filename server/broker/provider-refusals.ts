// What a provider says when it says no.
import type { IncomingMessage } from "node:http";

const mostBytes = 64 * 1024;

/** As much of a body as a refusal may have; what came before a break. */
export async function readRefusal(answer: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      size += chunk.length;
      chunks.push(chunk);
      if (size > mostBytes) break;
    }
  } catch {
    // The status says enough.
  }
  return Buffer.concat(chunks);
}

/** The provider's own words for it, shortened: they are shown to people. */
export function saidIn(body: Buffer, status: number): string {
  try {
    const { error } = JSON.parse(body.toString()) as { error?: { message?: unknown } };
    if (typeof error?.message === "string" && error.message) return error.message.slice(0, 300);
  } catch {
    // Not the provider itself, but something before it.
  }
  return `HTTP ${status}`;
}

/** Seconds or a date, as HTTP has it; 0 when it says nothing. */
export function retryAfterOf({ headers }: IncomingMessage): number {
  const value = headers["retry-after"] ?? "";
  const ms = /^\d{1,9}(\.\d+)?$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isNaN(ms) ? 0 : Math.max(ms, 0);
}
