import { Code, ConnectError } from "@connectrpc/connect";
import { codeToString } from "@connectrpc/connect/protocol-connect";
import { type Violation, ViolationsSchema } from "../../../gen/buf/validate/validate_pb.ts";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { ErrorInfoSchema, RetryInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts";
import { errorDomain, httpStatusOf, reasonName, reasonOf } from "../../errors.ts";

/** A refusal as REST says it. */
export type RestError = {
  status: number;
  headers: Record<string, string>;
  body: { error: string; message: string; details: Record<string, unknown> };
};

/** For errors that carry no reason of ours: those of the Connect library and of the validate interceptor. */
const byCode = new Map<Code, ErrorReason>([
  [Code.InvalidArgument, ErrorReason.INVALID_ARGUMENT],
  [Code.OutOfRange, ErrorReason.INVALID_ARGUMENT],
  [Code.NotFound, ErrorReason.NOT_FOUND],
  [Code.Unauthenticated, ErrorReason.UNAUTHENTICATED],
  [Code.PermissionDenied, ErrorReason.PERMISSION_DENIED],
  [Code.ResourceExhausted, ErrorReason.RATE_LIMITED],
  [Code.DeadlineExceeded, ErrorReason.DEADLINE_EXCEEDED],
  [Code.Unavailable, ErrorReason.UNAVAILABLE],
  [Code.Internal, ErrorReason.INTERNAL],
  [Code.Unknown, ErrorReason.INTERNAL],
  [Code.DataLoss, ErrorReason.INTERNAL],
]);

/** Statuses of the codes that no reason stands for; the word is then the code's own. */
const statusByCode = new Map<Code, number>([
  [Code.Canceled, 499],
  [Code.AlreadyExists, 409],
  [Code.FailedPrecondition, 409],
  [Code.Aborted, 409],
  [Code.Unimplemented, 501],
]);

/** Translates any error. What is not a ConnectError says nothing but `internal error`. */
export function restErrorOf(error: unknown): RestError {
  if (!(error instanceof ConnectError)) return internal();
  const own = reasonOf(error);
  const reason = own ?? byCode.get(error.code);
  // Without a reason of ours the text may be any library's.
  if (own === undefined && reason === ErrorReason.INTERNAL) return internal();
  const status = reason === undefined ? (statusByCode.get(error.code) ?? 500) : httpStatusOf(reason);
  const violations = error
    .findDetails(ViolationsSchema)
    .flatMap((detail) => detail.violations)
    .map(toPlain);
  const info = error.findDetails(ErrorInfoSchema).find((one) => one.domain === errorDomain);
  return {
    status,
    headers: headersOf(error, status, info?.metadata ?? {}),
    body: {
      error: reason === undefined ? codeToString(error.code) : reasonName(reason).toLowerCase(),
      message: own === undefined && violations.length > 0 ? sentenceOf(violations) : error.rawMessage,
      details: { ...info?.metadata, ...(violations.length > 0 ? { violations } : {}) },
    },
  };
}

function internal(): RestError {
  return { status: 500, headers: {}, body: { error: "internal", message: "internal error", details: {} } };
}

function headersOf(error: ConnectError, status: number, metadata: Record<string, string>): Record<string, string> {
  const headers: Record<string, string> = {};
  const seconds = metadata.retry_after_seconds ?? error.findDetails(RetryInfoSchema)[0]?.retryDelay?.seconds.toString();
  if (seconds !== undefined && /^\d+$/.test(seconds)) headers["retry-after"] = seconds;
  if (status === 401) headers["www-authenticate"] = "Bearer";
  return headers;
}

type PlainViolation = { field: string; message: string };

function toPlain(violation: Violation): PlainViolation {
  return { field: pathOf(violation), message: violation.message };
}

function pathOf(violation: Violation): string {
  let path = "";
  for (const element of violation.field?.elements ?? []) {
    if (element.fieldName) path += path ? `.${element.fieldName}` : element.fieldName;
    if (element.subscript.case !== undefined) path += `[${String(element.subscript.value)}]`;
  }
  return path;
}

function sentenceOf(violations: PlainViolation[]): string {
  return violations
    .slice(0, 10)
    .map((one) => (one.field ? `${one.field}: ${one.message}` : one.message))
    .join("; ");
}
