import type { UsageTally } from "../journal/tables.ts";

export type Metered = { model: string; usage: Omit<UsageTally, "cost_micros"> };

/** Reads the usage out of a provider's answer as it passes by. Holds one line of a stream, or one small JSON body. */
export type UsageMeter = {
  see(chunk: Uint8Array): void;
  /**
   * What the answer said, undefined when it said nothing. Of an answer that was cut before it told its output tokens, the
   * pieces that came are counted instead, at least one token each.
   */
  result(): Metered | undefined;
  /** Whether a stream told its end; undefined of what is no stream. */
  whole(): boolean | undefined;
  /** Whether a stream has said that it failed. */
  failed(): boolean;
};

/** A line or body longer than this is passed on but not read. */
const longest = 4 * 1024 * 1024;

export function createUsageMeter(contentType: string): UsageMeter {
  if (contentType.startsWith("text/event-stream")) return streamMeter();
  return contentType.startsWith("application/json")
    ? bodyMeter()
    : { see: () => undefined, result: () => undefined, whole: () => undefined, failed: () => false };
}

function streamMeter(): UsageMeter {
  const decoder = new TextDecoder();
  let rest = "";
  let metered: Metered | undefined;
  let pieces = 0;
  let ended = false;
  let broken = false;
  const line = (text: string): void => {
    if (text.includes('"content_block_delta"')) pieces += 1;
    if (text.startsWith("event:")) {
      ended ||= text.includes("message_stop");
      broken ||= text.includes("error");
    }
    // Only these two carry usage; the many deltas between them are not parsed.
    if (!text.startsWith("data:") || !(text.includes('"message_start"') || text.includes('"message_delta"'))) return;
    const event = parse(text.slice(5)) as { message?: RawMessage; usage?: RawUsage } | undefined;
    metered = merge(metered, event?.message ?? { ...(event?.usage ? { usage: event.usage } : {}) });
  };
  return {
    see(chunk) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      if (rest.length > longest) rest = "";
      for (const text of lines) line(text);
    },
    whole: () => ended,
    failed: () => broken,
    result: () => metered && { ...metered, usage: { ...metered.usage, output_tokens: Math.max(metered.usage.output_tokens, pieces) } },
  };
}

function bodyMeter(): UsageMeter {
  const chunks: Uint8Array[] = [];
  let size = 0;
  return {
    see(chunk) {
      size += chunk.length;
      if (size <= longest) chunks.push(chunk);
    },
    whole: () => undefined,
    failed: () => false,
    result: () => (size > longest ? undefined : merge(undefined, (parse(Buffer.concat(chunks).toString()) ?? {}) as RawMessage)),
  };
}

type RawUsage = Partial<Record<keyof Metered["usage"], number | null>>;
type RawMessage = { model?: string; usage?: RawUsage };

/** Counts in a stream are running totals: the later word on each count wins. */
function merge(before: Metered | undefined, message: RawMessage): Metered | undefined {
  if (!message.usage) return before;
  const count = (name: keyof Metered["usage"]): number => {
    const value = message.usage?.[name];
    return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : (before?.usage[name] ?? 0);
  };
  return {
    model: typeof message.model === "string" ? message.model : (before?.model ?? ""),
    usage: {
      input_tokens: count("input_tokens"),
      output_tokens: count("output_tokens"),
      cache_creation_input_tokens: count("cache_creation_input_tokens"),
      cache_read_input_tokens: count("cache_read_input_tokens"),
    },
  };
}

/** The provider's JSON; undefined for what is not JSON, which then carries no usage. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
