import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts";

const codes: Record<string, Code> = {
  UNAUTHENTICATED: Code.Unauthenticated,
  NOT_REGISTERED: Code.PermissionDenied,
  NO_CREDENTIALS: Code.PermissionDenied,
  NOT_FOUND: Code.NotFound,
  SESSION_ENDED: Code.FailedPrecondition,
  SESSION_NOT_ENDED: Code.FailedPrecondition,
  ALREADY_ANSWERED: Code.FailedPrecondition,
  INVALID_ARGUMENT: Code.InvalidArgument,
};

/** A refusal as the server makes it. */
export function refused(reason: string, message: string, metadata: Record<string, string> = {}): ConnectError {
  return new ConnectError(message, codes[reason] ?? Code.Internal, undefined, [
    { desc: ErrorInfoSchema, value: { reason, domain: "carrel", metadata } },
  ]);
}
