import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorReason, ErrorReasonSchema } from "../gen/carrel/v1/error_reason_pb.ts";
import { type ErrorInfo, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.ts";

const domain = "carrel";
const prefix = "ERROR_REASON_";

/** Why a call was refused; undefined for what is not a refusal of Carrel (a lost connection, a proxy's answer). */
export function reasonOf(error: unknown): ErrorReason | undefined {
  const name = infoOf(error)?.reason;
  if (name === undefined) return undefined;
  const value = ErrorReasonSchema.values.find((candidate) => candidate.name === prefix + name);
  return value?.number as ErrorReason | undefined;
}

/** The variable parts of a refusal, by name; empty when there are none. The error reason's comments say which to expect. */
export function metadataOf(error: unknown): Readonly<Record<string, string>> {
  return infoOf(error)?.metadata ?? {};
}

/** How long the server asks to wait before the next try, in milliseconds; undefined when it does not say. */
export function retryAfterMsOf(error: unknown): number | undefined {
  if (!(error instanceof ConnectError)) return undefined;
  const [info] = error.findDetails(RetryInfoSchema);
  if (info?.retryDelay) return Number(info.retryDelay.seconds) * 1000 + info.retryDelay.nanos / 1e6;
  const seconds = Number(metadataOf(error)["retry_after_seconds"]);
  return seconds > 0 ? seconds * 1000 : undefined;
}

/** The sentence of an error, without the code that ConnectError puts in front. */
export function messageOf(error: unknown): string {
  if (error instanceof ConnectError) return error.rawMessage;
  return error instanceof Error ? error.message : String(error);
}

const passingReasons: ReadonlySet<ErrorReason> = new Set([
  ErrorReason.UNAVAILABLE,
  ErrorReason.SHUTTING_DOWN,
  ErrorReason.RATE_LIMITED,
  ErrorReason.READER_TOO_SLOW,
  ErrorReason.DEADLINE_EXCEEDED,
  ErrorReason.INTERNAL,
]);

const lastingCodes: ReadonlySet<Code> = new Set([
  Code.NotFound,
  Code.PermissionDenied,
  Code.Unauthenticated,
  Code.Unimplemented,
  Code.FailedPrecondition,
  Code.AlreadyExists,
  Code.OutOfRange,
]);

/** Whether the same call may succeed later without anybody changing anything. */
export function mayPass(error: unknown): boolean {
  const reason = reasonOf(error);
  if (reason !== undefined) return passingReasons.has(reason);
  if (!(error instanceof ConnectError)) return false;
  // A stream that breaks off in the middle of a message is INVALID_ARGUMENT to the Connect client; what a server says
  // with that code has details.
  if (error.code === Code.InvalidArgument) return error.details.length === 0;
  return !lastingCodes.has(error.code);
}

function infoOf(error: unknown): ErrorInfo | undefined {
  if (!(error instanceof ConnectError)) return undefined;
  return error.findDetails(ErrorInfoSchema).find((info) => info.domain === domain);
}
