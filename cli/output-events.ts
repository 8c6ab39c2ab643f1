import { create, type JsonObject, type JsonValue, toJson } from "@bufbuild/protobuf";
import { timestampDate, ValueSchema } from "@bufbuild/protobuf/wkt";
import { ApprovalScopeSchema, PendingOutcome, PendingOutcomeSchema, type Question } from "../gen/carrel/v1/approval_pb.ts";
import {
  type AssistantMessage,
  type Event,
  type EventPayload,
  EventPayloadSchema,
  type ToolResult,
  type TurnResult,
} from "../gen/carrel/v1/event_pb.ts";
import { EndReasonSchema } from "../gen/carrel/v1/session_pb.ts";
import { toProductJson, wordOf } from "../sdk/node.ts";
import type { Output, Piece, Style } from "./output.ts";
import { safeJson, shorten } from "./output-text.ts";

type Kind = NonNullable<EventPayload["kind"]>;
type Value<C extends Kind["case"]> = Extract<Kind, { case: C }>["value"];

/** How an event looks: a name in its style, then its text. */
export type Shown = { name: string; nameStyle: Style; text: string; textStyle: Style; isProblem?: boolean };

export type RenderOptions = {
  /** Nothing is left out, and times are whole. */
  verbose: boolean;
  /** Only what the agent says, and nothing around it. */
  quiet: boolean;
};

export type Rendered = { print(output: Output): void };

/** An event as a person reads it; undefined for what is noise to them or unknown to this version. */
export function renderEvent(event: Event, options: RenderOptions): Rendered | undefined {
  const kind = event.payload?.kind;
  if (!kind || kind.case === undefined) return undefined;
  if (options.quiet)
    return kind.case === "assistant" && isSaid(kind.value) ? { print: (output) => output.line(kind.value.content.value ?? "") } : undefined;
  if (isNoise(kind) && !options.verbose) return undefined;
  const shown = showKind(kind);
  const pieces: Piece[] = [
    ...headOf(shown, event.createdAt ? timestampDate(event.createdAt) : undefined, options),
    { style: shown.textStyle, text: shown.text },
  ];
  return { print: (output) => (shown.isProblem ? output.warn(...pieces) : output.line(...pieces)) };
}

/** `[12:00:01] name: ` */
export function headOf({ name, nameStyle, text }: Shown, time: Date | undefined, { verbose }: RenderOptions): Piece[] {
  return [
    ...(time ? [{ style: "dim" as const, text: `[${formatTime(time, verbose)}] ` }] : []),
    { style: nameStyle, text: text === "" ? name : `${name}: ` },
  ];
}

/** An event as one JSON object, in the shape of the product's frames. `json` is the event in the product's JSON. */
export function eventLine(sessionId: string, json: JsonObject): JsonObject {
  const [type, payload] = Object.entries((json["payload"] ?? {}) as JsonObject)[0] ?? ["unknown", {}];
  return { type, timestamp: json["created_at"] ?? null, session_id: sessionId, seq: json["seq"] ?? 0, turn: json["turn"] ?? 0, payload };
}

/** A block of the agent's answer. */
export function showAssistant({ content, parentToolUseId }: Pick<AssistantMessage, "content" | "parentToolUseId">): Shown {
  const who = parentToolUseId === "" ? "" : " (sub-agent)";
  const text = content.value ?? "";
  return content.case === "thinking"
    ? { name: `thinking${who}`, nameStyle: "dim", text, textStyle: "dim" }
    : { name: `assistant${who}`, nameStyle: "assistantName", text, textStyle: "plain" };
}

const noisyNotices = new Set(
  `credential_diagnostics init_received claude_md_loaded claude_md_error user_mcp_servers_loaded mcp_config_debug mcp_servers_loaded
  mcp_servers_set unknown_plugin plugins_resolved autoinit_loaded autoinit_error resuming_sdk_session model_set max_turns_set
  max_budget_set ttl_added_to_system_prompt one_shot_mode_set permission_mode_set tools_configured system_prompt_set sdk_session_id
  session_patterns_loaded hook_started hook_response hook_matched`.split(/\s+/),
);

/** Housekeeping that says nothing to the person who talks to the agent. */
function isNoise(kind: Kind): boolean {
  switch (kind.case) {
    case "sessionStatus":
    case "usageDelta":
    case "sdkSessionId":
    case "turnStart":
      return true;
    case "system":
      return noisyNotices.has(kind.value.subtype);
    case "assistant":
      return (kind.value.content.value ?? "") === "";
    case "user":
      return kind.value.text === "";
    default:
      return false;
  }
}

const renderers: { [C in NonNullable<Kind["case"]>]?: (value: Value<C>) => Shown } = {
  user: ({ text, queued }) => ({ name: queued ? "user (queued)" : "user", nameStyle: "userName", text, textStyle: "plain" }),
  assistant: showAssistant,
  promptCanceled: ({ promptSeq, canceledBy }) => ({
    name: "prompt canceled",
    nameStyle: "dim",
    text: `prompt ${promptSeq}${canceledBy && ` by ${canceledBy}`}`,
    textStyle: "dim",
  }),
  toolUse: ({ name, id, input }) => ({
    name: `tool_use ${name} (${id})`,
    nameStyle: "tool",
    text: shorten(safeJson(input ?? {}), 500),
    textStyle: "tool",
  }),
  toolResult: (result) => ({
    name: `${result.isError ? "tool_error" : "tool_result"} (${result.toolUseId})`,
    nameStyle: "toolResult",
    text: shorten(resultText(result), 4000),
    textStyle: "toolResult",
  }),
  system: ({ subtype, message, details }) => ({
    name: `system[${subtype}]`,
    nameStyle: "dim",
    text: message || (details ? shorten(safeJson(details), 500) : ""),
    textStyle: "dim",
  }),
  result: showResult,
  sessionEnd: ({ reason, exitCode, message }) => ({
    name: `session ended: ${wordOf(EndReasonSchema, reason)}${exitCode === undefined ? "" : ` (exit_code=${exitCode})`}`,
    nameStyle: "problem",
    text: message,
    textStyle: "plain",
  }),
  sessionError: ({ error, details }) => ({
    name: `error [${error}]`,
    nameStyle: "problem",
    text: details,
    textStyle: "plain",
    isProblem: true,
  }),
  // Whole, however long: what is cut off is what somebody would want to hide.
  toolApprovalRequest: ({ toolName, toolUseId, toolInput }) => ({
    name: `approval needed: ${toolName} (${toolUseId})`,
    nameStyle: "approval",
    text: safeJson(toolInput ?? {}),
    textStyle: "approval",
  }),
  toolApprovalResolved: ({ toolUseId, outcome, scope, pattern, message, answeredBy }) => ({
    name: `approval (${toolUseId})`,
    nameStyle: "dim",
    text: [
      wordOf(PendingOutcomeSchema, outcome),
      outcome === PendingOutcome.APPROVED ? wordOf(ApprovalScopeSchema, scope) : "",
      pattern && `for ${pattern}`,
      answeredBy && `by ${answeredBy}`,
      message && `(${message})`,
    ]
      .filter(Boolean)
      .join(" "),
    textStyle: "dim",
  }),
  askUserQuestion: ({ questions }) => ({
    name: "question",
    nameStyle: "question",
    text: questions.map(questionText).join("\n"),
    textStyle: "question",
  }),
  questionResolved: ({ outcome, answers, answeredBy }) => ({
    name: "question answered",
    nameStyle: "dim",
    text: `${outcome === PendingOutcome.APPROVED ? safeJson(answers) : wordOf(PendingOutcomeSchema, outcome)}${answeredBy && ` by ${answeredBy}`}`,
    textStyle: "dim",
  }),
};

function showKind(kind: Kind & { case: NonNullable<Kind["case"]> }): Shown {
  const render = renderers[kind.case] as ((value: unknown) => Shown) | undefined;
  if (render) return render(kind.value);
  const [name, value] = Object.entries(toProductJson(EventPayloadSchema, create(EventPayloadSchema, { kind })))[0] ?? ["event", {}];
  return { name, nameStyle: "dim", text: shorten(safeJson(value), 500), textStyle: "dim" };
}

function showResult({ success, subtype, summary, numTurns, costUsd, durationMs }: TurnResult): Shown {
  const figures = [
    `${(durationMs / 1000).toFixed(1)} s`,
    `${numTurns} round ${numTurns === 1 ? "trip" : "trips"}`,
    `$${costUsd.toFixed(4)}`,
  ].join(", ");
  // The summary of a success is the answer that was just printed.
  return {
    name: `result ${subtype || (success ? "success" : "failed")} (${figures})`,
    nameStyle: success ? "result" : "problem",
    text: success ? "" : summary,
    textStyle: "plain",
  };
}

function questionText({ header, question, multiSelect }: Question["questions"][number]): string {
  return `${header && header !== question ? `${header}: ` : ""}${question}${multiSelect ? " (several may be chosen)" : ""}`;
}

function resultText({ content }: ToolResult): string {
  const value: JsonValue = content ? toJson(ValueSchema, content) : "";
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return safeJson(value);
  return value.map((block) => (isTextBlock(block) ? block.text : safeJson(block))).join("\n");
}

function isTextBlock(block: JsonValue): block is { type: "text"; text: string } {
  return (
    typeof block === "object" && block !== null && !Array.isArray(block) && block["type"] === "text" && typeof block["text"] === "string"
  );
}

function isSaid({ content, parentToolUseId }: AssistantMessage): boolean {
  return content.case === "text" && content.value !== "" && parentToolUseId === "";
}

function formatTime(time: Date, whole: boolean): string {
  if (whole) return time.toISOString();
  return [time.getHours(), time.getMinutes(), time.getSeconds()].map((part) => String(part).padStart(2, "0")).join(":");
}
