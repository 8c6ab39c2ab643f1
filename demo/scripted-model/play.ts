import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { ApiError, errorMessageOf, errorTypeOf } from "./errors.ts";
import type { Delta, Output } from "./output.ts";
import { signThinking } from "./signature.ts";
import type { Fault, Step, ToolCall } from "./steps.ts";
import { tokensOfText } from "./usage.ts";
import type { MessagesRequest, Usage } from "./wire.ts";

export interface Playing {
  request: MessagesRequest;
  /** As planned for this request; a fault can only be the last of them. */
  steps: readonly Step[];
  output: Output;
  usage: Usage;
  /** Milliseconds between two tokens. */
  pace: number;
  /** Ends pauses, and hangs, when the client leaves or the server closes. */
  signal: AbortSignal;
  /** Destroys the connection under the answer. */
  destroy(): void;
}

/** State of one answer while it is being played. */
interface State extends Playing {
  tokens: number;
  stopReason: string | undefined;
}

const jsonPieceLength = 24;
const flushMs = 20;

function wordsOf(text: string): string[] {
  return text.match(/\s*\S+|\s+$/g) ?? [];
}

/**
 * Performs the steps in order and ends the answer. Throws `ApiError` for a scripted
 * HTTP status, and an abort error when the client or the server went away.
 */
export async function play(playing: Playing): Promise<void> {
  const state: State = { ...playing, tokens: 0, stopReason: undefined };
  const steps = [...playing.steps];
  const speaks = steps.some(({ do: what }) => what !== "usage" && what !== "pause" && what !== "stop" && what !== "think");
  if (!speaks) steps.push({ do: "text", text: "Done." });
  for (const step of steps) {
    if ((await perform(state, step)) === "ended") return;
    if (state.stopReason === "max_tokens") break;
  }
  const calls = steps.some((step) => step.do === "tools");
  const stopReason = state.stopReason ?? (calls ? "tool_use" : "end_turn");
  await state.output.finish(stopReason, { ...state.usage, output_tokens: outputTokens(state) });
}

function outputTokens({ steps, tokens }: State): number {
  const override = steps.findLast((step) => step.do === "usage")?.usage.output_tokens;
  return override ?? Math.max(1, tokens);
}

async function perform(state: State, step: Step): Promise<"ended" | undefined> {
  switch (step.do) {
    case "think":
      await think(state, step.text);
      return undefined;
    case "text":
      await say(state, wordsOf(step.text), step.pace ?? state.pace);
      return undefined;
    case "tools":
      for (const call of step.calls) await callTool(state, call);
      return undefined;
    case "pause":
      await sleep(step.ms, undefined, { signal: state.signal });
      return undefined;
    case "stop":
      state.stopReason = step.reason;
      return undefined;
    case "usage":
      return undefined;
    default:
      return fault(state, step);
  }
}

async function fault(state: State, step: Fault): Promise<"ended"> {
  if (step.do === "hang") {
    await sleep(2 ** 31 - 1, undefined, { signal: state.signal });
  } else if (step.do === "cut") {
    if (step.after > 0)
      await say(
        state,
        Array.from({ length: step.after }, (_, index) => `w${index + 1} `),
        state.pace,
        false,
      );
    // What was written shall reach the client before the connection breaks.
    await sleep(flushMs, undefined, { signal: state.signal });
    state.destroy();
  } else {
    const type = step.do === "status" ? (step.type ?? errorTypeOf(step.code)) : step.type;
    const message = step.message ?? errorMessageOf(type);
    if (step.do === "status" && !state.output.begun()) throw new ApiError(step.code, type, message, step.headers);
    await state.output.fail(type, message);
  }
  return "ended";
}

async function pieces(state: State, deltas: Delta[], pace: number): Promise<void> {
  for (const delta of deltas) {
    if (pace > 0) await sleep(pace, undefined, { signal: state.signal });
    await state.output.delta(delta);
  }
}

async function say(state: State, words: string[], pace: number, whole = true): Promise<void> {
  const room = (state.request.max_tokens ?? Infinity) - state.tokens;
  const said = words.slice(0, Math.max(0, room));
  if (said.length < words.length) state.stopReason = "max_tokens";
  state.tokens += said.length;
  await state.output.open({ type: "text", text: "" });
  await pieces(
    state,
    said.map((text) => ({ type: "text_delta", text })),
    pace,
  );
  if (whole) await state.output.close();
}

/** Thinks only when the request allows it; with the display omitted only the signature is sent. */
async function think(state: State, text: string): Promise<void> {
  const { thinking } = state.request;
  if (!thinking || thinking.type === "disabled") return;
  const shown = thinking.display === "omitted" ? "" : text;
  const words = wordsOf(text);
  state.tokens += words.length;
  await state.output.open({ type: "thinking", thinking: "", signature: "" });
  if (shown)
    await pieces(
      state,
      words.map((word) => ({ type: "thinking_delta", thinking: word })),
      state.pace,
    );
  await state.output.delta({ type: "signature_delta", signature: signThinking(shown) });
  await state.output.close();
}

async function callTool(state: State, call: ToolCall): Promise<void> {
  const json = JSON.stringify(call.input);
  state.tokens += tokensOfText(json);
  const id = `toolu_${randomUUID().replaceAll("-", "").slice(0, 24)}`;
  await state.output.open({ type: "tool_use", id, name: call.name, input: {} });
  const parts = ["", ...(json.match(new RegExp(`[\\s\\S]{1,${jsonPieceLength}}`, "g")) ?? [])];
  await pieces(
    state,
    parts.map((partial_json) => ({ type: "input_json_delta", partial_json })),
    state.pace,
  );
  await state.output.close();
}
