import { create } from "@bufbuild/protobuf";
import {
  EndReasonSchema,
  PermissionModeSchema,
  type Session,
  SessionDetailSchema,
  SessionSchema,
  SessionStatusSchema,
  StartPhaseSchema,
  UserStateSchema,
} from "../gen/carrel/v1/session_pb.ts";
import { ListSessionsResponseSchema } from "../gen/carrel/v1/session_service_pb.ts";
import { toProductJson, wordOf } from "../sdk/node.ts";
import type { Output } from "./output.ts";
import { printFacts, printTable, timeOf } from "./output-table.ts";

const promptLength = 120;

/** A session as lists show it: the prompt it began with may be long. */
export function listedSession(session: Session): Session {
  const { initialPrompt } = session;
  return initialPrompt.length <= promptLength ? session : { ...session, initialPrompt: `${initialPrompt.slice(0, promptLength)}...` };
}

/** A table, or the same document as a page without a next one. */
export function printSessions(output: Output, sessions: readonly Session[]): void {
  if (output.json)
    return output.document(
      toProductJson(ListSessionsResponseSchema, create(ListSessionsResponseSchema, { sessions: sessions.map(listedSession) })),
    );
  if (sessions.length === 0) return output.notice("no sessions; start one with carrel chat");
  if (output.quiet) return sessions.forEach(({ id }) => output.line(id));
  const rows = sessions.map((session) => [
    session.id,
    wordOf(SessionStatusSchema, session.status),
    stateOf(session),
    timeOf(session.createdAt),
    labelOf(session),
  ]);
  printTable(output, ["ID", "STATUS", "STATE", "CREATED", "NAME"], rows);
}

export function printSession(output: Output, session: Session): void {
  if (output.json) return output.document({ session: toProductJson(SessionSchema, session) });
  const { usage } = session;
  const facts: [string, string][] = [
    ["id", session.id],
    ["name", session.name],
    ["status", wordOf(SessionStatusSchema, session.status)],
    ["state", stateOf(session)],
    ["model", session.model || "the provider's default"],
    ["permission mode", wordOf(PermissionModeSchema, session.permissionMode)],
    ["allowed tools", session.allowedTools.join(", ")],
    ["denied tools", session.deniedTools.join(", ")],
    ["created", timeOf(session.createdAt)],
    ["started", timeOf(session.startedAt)],
    ["start took", session.startPhases.map(({ phase, durationMs }) => `${wordOf(StartPhaseSchema, phase)} ${durationMs} ms`).join(", ")],
    ["ended", timeOf(session.terminatedAt)],
    ["end reason", wordOf(EndReasonSchema, session.endReason)],
    ["exit code", session.exitCode === undefined ? "" : String(session.exitCode)],
    ["error", session.errorMessage],
    ["region", session.region],
    ["turns", String(session.numTurns)],
    ["tokens", usage ? `${usage.inputTokens} in, ${usage.outputTokens} out` : ""],
    ["cost", `$${session.costUsd.toFixed(4)}`],
    ["waiting for you", session.pendingCount > 0 ? `${session.pendingCount} to answer` : ""],
    ["put away", timeOf(session.snapshotAt)],
    ["forked from", session.forkedFromSessionId],
    ["queued prompts", session.queuedPrompts > 0 ? String(session.queuedPrompts) : ""],
    ["first prompt", session.initialPrompt],
    ["demo", session.demo ? "answers come from a scripted model, not from a real one" : ""],
  ];
  printFacts(output, facts);
}

function stateOf(session: Session): string {
  const detail = wordOf(SessionDetailSchema, session.detail);
  return [wordOf(UserStateSchema, session.userState), detail === "" ? "" : `(${detail})`].filter(Boolean).join(" ");
}

function labelOf({ name, initialPrompt, demo }: Session): string {
  const label = name || (initialPrompt.length > 50 ? `${initialPrompt.slice(0, 50)}...` : initialPrompt);
  return `${demo ? "[demo] " : ""}${label}`;
}
