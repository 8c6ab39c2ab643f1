import { type DescEnumValue, type DescMessage, getOption, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorReason, ErrorReasonSchema } from "../gen/carrel/v1/error_reason_pb.ts";
import { http_status } from "../gen/carrel/v1/options_pb.ts";
import { ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.ts";

/** The `domain` of every ErrorInfo of this API. */
export const errorDomain = "carrel";

const prefix = "ERROR_REASON_";

const codes = new Map<ErrorReason, Code>([
  [ErrorReason.INVALID_ARGUMENT, Code.InvalidArgument],
  [ErrorReason.MALFORMED_BODY, Code.InvalidArgument],
  [ErrorReason.UNKNOWN_FIELD, Code.InvalidArgument],
  [ErrorReason.UNSUPPORTED_FIELD, Code.InvalidArgument],
  [ErrorReason.NAME_REQUIRED, Code.InvalidArgument],
  [ErrorReason.NAME_TOO_LONG, Code.InvalidArgument],
  [ErrorReason.INVALID_CURSOR, Code.InvalidArgument],
  [ErrorReason.PATTERN_MISMATCH, Code.InvalidArgument],
  [ErrorReason.UNSUPPORTED_MEDIA_TYPE, Code.InvalidArgument],
  [ErrorReason.UNAUTHENTICATED, Code.Unauthenticated],
  [ErrorReason.NOT_REGISTERED, Code.PermissionDenied],
  [ErrorReason.EMAIL_DOMAIN_NOT_ALLOWED, Code.PermissionDenied],
  [ErrorReason.EMAIL_REQUIRED, Code.PermissionDenied],
  [ErrorReason.NO_CREDENTIALS, Code.PermissionDenied],
  [ErrorReason.PERMISSION_DENIED, Code.PermissionDenied],
  [ErrorReason.ORIGIN_NOT_ALLOWED, Code.PermissionDenied],
  [ErrorReason.NOT_FOUND, Code.NotFound],
  [ErrorReason.FENCED, Code.NotFound],
  [ErrorReason.METHOD_NOT_ALLOWED, Code.Unimplemented],
  [ErrorReason.SESSION_LIMIT, Code.ResourceExhausted],
  [ErrorReason.SESSION_ENDED, Code.FailedPrecondition],
  [ErrorReason.SESSION_BUSY, Code.FailedPrecondition],
  [ErrorReason.SNAPSHOT_GONE, Code.FailedPrecondition],
  [ErrorReason.NOT_FORKABLE, Code.FailedPrecondition],
  [ErrorReason.MISSING_TOOL_SERVERS, Code.FailedPrecondition],
  [ErrorReason.FORK_LIMIT, Code.ResourceExhausted],
  [ErrorReason.STORE_FULL, Code.ResourceExhausted],
  [ErrorReason.SESSION_NOT_ENDED, Code.FailedPrecondition],
  [ErrorReason.ALREADY_ANSWERED, Code.FailedPrecondition],
  [ErrorReason.PROMPT_STARTED, Code.FailedPrecondition],
  [ErrorReason.SEQUENCE_GAP, Code.FailedPrecondition],
  [ErrorReason.DEFAULT_PROFILE, Code.FailedPrecondition],
  [ErrorReason.REQUEST_ID_REUSED, Code.AlreadyExists],
  [ErrorReason.NAME_TAKEN, Code.AlreadyExists],
  [ErrorReason.PROFILE_LIMIT, Code.ResourceExhausted],
  [ErrorReason.MEMORY_LIMIT, Code.ResourceExhausted],
  [ErrorReason.TOO_LARGE, Code.ResourceExhausted],
  [ErrorReason.RATE_LIMITED, Code.ResourceExhausted],
  [ErrorReason.READER_TOO_SLOW, Code.ResourceExhausted],
  [ErrorReason.UNAVAILABLE, Code.Unavailable],
  [ErrorReason.SHUTTING_DOWN, Code.Unavailable],
  [ErrorReason.DEADLINE_EXCEEDED, Code.DeadlineExceeded],
  [ErrorReason.INTERNAL, Code.Internal],
]);

type Detail = { desc: DescMessage; value: MessageInitShape<DescMessage> };

/**
 * A refusal of this API: the Connect code that belongs to `reason`, one google.rpc.ErrorInfo, and at most one more detail.
 * `message` is one plain sentence the caller can act on: lower case, no full stop, no internals. Every variable part of it
 * is repeated in `metadata`.
 */
export function refusal(
  reason: ErrorReason,
  message: string,
  metadata: Readonly<Record<string, string>> = {},
  extra?: Detail,
): ConnectError {
  const info = { desc: ErrorInfoSchema, value: { reason: reasonName(reason), domain: errorDomain, metadata: { ...metadata } } };
  return new ConnectError(message, codes.get(reason) ?? Code.Internal, undefined, extra ? [info, extra] : [info]);
}

/** A refusal that says when to try again (whole seconds, at least 1). */
export function retryLater(reason: ErrorReason, message: string, seconds: number): ConnectError {
  const whole = Math.max(1, Math.ceil(seconds));
  return refusal(
    reason,
    message,
    { retry_after_seconds: String(whole) },
    {
      desc: RetryInfoSchema,
      value: { retryDelay: { seconds: BigInt(whole) } },
    },
  );
}

/** The one answer for what is not there and for what is not the caller's. */
export function notFound(what: string): ConnectError {
  return refusal(ErrorReason.NOT_FOUND, `${what} not found`, { resource: what });
}

/** The reason a refusal carries; undefined for errors that are not ours. */
export function reasonOf(error: unknown): ErrorReason | undefined {
  if (!(error instanceof ConnectError)) return undefined;
  const name = error.findDetails(ErrorInfoSchema).find((info) => info.domain === errorDomain)?.reason;
  if (name === undefined) return undefined;
  return ErrorReasonSchema.values.find((value) => value.name === prefix + name)?.number as ErrorReason | undefined;
}

/** `NOT_FOUND` for ErrorReason.NOT_FOUND. */
export function reasonName(reason: ErrorReason): string {
  return descOf(reason).name.slice(prefix.length);
}

/** The HTTP status of a REST answer with this reason. */
export function httpStatusOf(reason: ErrorReason): number {
  return getOption(descOf(reason), http_status);
}

function descOf(reason: ErrorReason): DescEnumValue {
  const value = ErrorReasonSchema.value[reason];
  if (!value) throw new Error(`unknown error reason ${String(reason)}`);
  return value;
}
