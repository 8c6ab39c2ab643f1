import type { ConnectError } from "@connectrpc/connect";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { asUnavailable } from "../../db/unavailable-interceptor.ts";
import { reasonOf } from "../../errors.ts";
import { tell } from "../../http/log-interceptor.ts";

/** The product's close codes, and those of RFC 6455 where the product has none. */
export const closeCodes = {
  violation: 1008,
  restart: 1012,
  unauthenticated: 4001,
  forbidden: 4003,
  notFound: 4004,
  ended: 4100,
  /** Come back with `after_seq`: nothing is lost. */
  reset: 4101,
  internal: 4500,
} as const;

const byReason = new Map<ErrorReason, number>([
  [ErrorReason.UNAUTHENTICATED, closeCodes.unauthenticated],
  [ErrorReason.NOT_REGISTERED, closeCodes.forbidden],
  [ErrorReason.PERMISSION_DENIED, closeCodes.forbidden],
  [ErrorReason.NOT_FOUND, closeCodes.notFound],
  [ErrorReason.SESSION_ENDED, closeCodes.ended],
  [ErrorReason.READER_TOO_SLOW, closeCodes.reset],
  [ErrorReason.UNAVAILABLE, closeCodes.reset],
  [ErrorReason.DEADLINE_EXCEEDED, closeCodes.reset],
  [ErrorReason.SHUTTING_DOWN, closeCodes.restart],
  [ErrorReason.RATE_LIMITED, closeCodes.violation],
  [ErrorReason.INVALID_ARGUMENT, closeCodes.violation],
  [ErrorReason.INVALID_CURSOR, closeCodes.violation],
]);

/** The close code of a connection that ends for this reason. */
export function closeCodeOf(error: ConnectError): number {
  return byReason.get(reasonOf(error) ?? ErrorReason.INTERNAL) ?? closeCodes.internal;
}

/** The text of a close frame, which has room for 123 bytes. */
export function closeReason(error: ConnectError): string {
  let text = error.rawMessage;
  while (Buffer.byteLength(text) > 123) text = text.slice(0, -1);
  return text.isWellFormed() ? text : text.slice(0, -1);
}

/** Any error as what a client may be told. A database that is away is no fault: the client comes back. */
export function refusalOf(error: unknown): ConnectError {
  return tell(asUnavailable(error));
}

export function isFault(error: ConnectError): boolean {
  return (reasonOf(error) ?? ErrorReason.INTERNAL) === ErrorReason.INTERNAL;
}
