import type { ConnectError } from "@connectrpc/connect";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../errors.ts";

/** Why a token is refused; the `problem` of the answer. */
export type TokenProblem =
  | "missing"
  | "malformed"
  | "expired"
  | "not_yet_valid"
  | "unknown_issuer"
  | "wrong_audience"
  | "bad_signature"
  | "bad_ticket";

const sentences: Record<TokenProblem, string> = {
  missing: "send a token: authorization: bearer <token>",
  malformed: "the token is not one that signs a person in here",
  expired: "the token has expired, sign in again",
  not_yet_valid: "the token is not valid yet, check the clocks",
  unknown_issuer: "the token comes from an issuer that is not trusted here",
  wrong_audience: "the token was made for another service",
  bad_signature: "the token's signature is not one of its issuer",
  bad_ticket: "the ticket is not one for this session, was used or is too old: get another",
};

/** The UNAUTHENTICATED refusal. `cause` is for the log only. */
export function unauthenticated(problem: TokenProblem, cause?: unknown): ConnectError {
  const error = refusal(ErrorReason.UNAUTHENTICATED, sentences[problem], { problem });
  error.cause = cause;
  return error;
}
