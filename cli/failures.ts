import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorReason } from "../gen/carrel/v1/error_reason_pb.ts";
import { messageOf, metadataOf, reasonOf, retryAfterMsOf } from "../sdk/node.ts";
import type { Output } from "./output.ts";

/** 0 fine · 1 something failed · 2 the command line was wrong · 130 left by Ctrl+C */
export type ExitCode = 0 | 1 | 2 | 130;

/** A failure with its words: what is wrong and what to do next. */
export class CliFailure extends Error {
  readonly hints: readonly string[];
  readonly exitCode: ExitCode;

  constructor(message: string, hints: readonly string[] = [], exitCode: ExitCode = 1) {
    super(message);
    this.hints = hints;
    this.exitCode = exitCode;
  }
}

/** The command line was wrong. */
export function usageFailure(message: string, ...hints: string[]): CliFailure {
  return new CliFailure(message, hints, 2);
}

export const tokenCommand = "npm run --silent token -- --email you@example.com";

const hintsOf = new Map<ErrorReason, readonly string[]>([
  [ErrorReason.UNAUTHENTICATED, ["sign in again: carrel login", `get a token on the server's machine: ${tokenCommand}`]],
  [ErrorReason.NOT_REGISTERED, ["register by signing in: carrel login"]],
  [ErrorReason.EMAIL_DOMAIN_NOT_ALLOWED, ["ask whoever runs this installation to allow your e-mail domain"]],
  [ErrorReason.NO_CREDENTIALS, ["store an Anthropic API key: carrel auth claude set-key"]],
  [ErrorReason.PROMPT_STARTED, ["stop the turn with /interrupt in carrel session attach <id>"]],
  [ErrorReason.DEFAULT_PROFILE, ["carrel profile set-default <another profile>"]],
  [ErrorReason.PROFILE_LIMIT, ["delete one first: carrel profile list, then carrel profile delete <profile>"]],
  [ErrorReason.SESSION_LIMIT, ["end one first: carrel session list --status running, then carrel session terminate <id>"]],
  [ErrorReason.SESSION_ENDED, ["read it with carrel session history <id>, or start another with carrel chat"]],
  [ErrorReason.SESSION_NOT_ENDED, ["end it first: carrel session terminate <id>"]],
  [ErrorReason.UNAVAILABLE, ["try again in a moment"]],
  [ErrorReason.SHUTTING_DOWN, ["the server is stopping; try again when it is back"]],
  [ErrorReason.INTERNAL, ["the server's log has the cause"]],
]);

type Explained = { word: string; message: string; hints: readonly string[]; exitCode: ExitCode };

/** An error in words for a person. */
export function explain(error: unknown, url: string): Explained {
  if (error instanceof CliFailure)
    return { word: error.exitCode === 2 ? "usage" : "failed", message: error.message, hints: error.hints, exitCode: error.exitCode };
  const reason = reasonOf(error);
  const message = messageOf(error);
  if (reason !== undefined) return { word: wordOfReason(reason), message, hints: hintsFor(reason, error), exitCode: 1 };
  if (isUnreachable(error)) {
    return {
      word: "unreachable",
      message: `no answer from ${url}: ${message}`,
      hints: ["start the server with: npm start", "or name another with --url or CARREL_URL"],
      exitCode: 1,
    };
  }
  const isFault = !(error instanceof ConnectError) && error instanceof Error;
  return { word: "failed", message: isFault ? (error.stack ?? message) : message, hints: [], exitCode: 1 };
}

export function reportFailure(output: Output, error: unknown, url: string): ExitCode {
  const { word, message, hints, exitCode } = explain(error, url);
  output.endLine();
  if (output.json) {
    output.warn(JSON.stringify({ error: word, message, hints, details: metadataOf(error) }));
    return exitCode;
  }
  output.warn({ style: "problem", text: "carrel: " }, message);
  for (const hint of hints) output.warn("  ", hint);
  return exitCode;
}

function hintsFor(reason: ErrorReason, error: unknown): readonly string[] {
  const waitMs = retryAfterMsOf(error);
  if (reason === ErrorReason.RATE_LIMITED && waitMs !== undefined) return [`try again in ${Math.ceil(waitMs / 1000)} s`];
  if (reason === ErrorReason.NOT_FOUND) return hintsOfMissing.get(metadataOf(error)["resource"] ?? "") ?? [];
  return hintsOf.get(reason) ?? [];
}

const hintsOfMissing = new Map<string, readonly string[]>([
  ["session", ["see which sessions there are: carrel session list"]],
  ["prompt", ["see which prompts wait: carrel session queue list <id>"]],
  ["profile", ["see which profiles there are: carrel profile list"]],
  ["memory", ["see which files there are: carrel memory list"]],
]);

function wordOfReason(reason: ErrorReason): string {
  const entry = Object.entries(ErrorReason).find(([, number]) => number === reason);
  return entry ? entry[0].toLowerCase() : "failed";
}

/** No Carrel answered: nothing listens, or something else does. */
function isUnreachable(error: unknown): boolean {
  if (!(error instanceof ConnectError) || error.details.length > 0) return false;
  return error.code === Code.Unavailable || error.code === Code.Aborted || (error.code === Code.Internal && error.cause !== undefined);
}
