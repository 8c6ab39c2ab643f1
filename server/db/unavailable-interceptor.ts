import type { Interceptor } from "@connectrpc/connect";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { retryLater } from "../errors.ts";
import { passingFailure } from "./failures.ts";

/**
 * What callers are told when the database is away, restarting, or asked for a repetition: UNAVAILABLE, and when to try
 * again. Whether the call took effect may be unknown then; a request_id makes the repetition safe. Other errors are given
 * back unchanged.
 */
export function asUnavailable(error: unknown): unknown {
  const failure = passingFailure(error);
  if (!failure) return error;
  const told = retryLater(ErrorReason.UNAVAILABLE, "the database cannot be reached at the moment, try again", failure.retryAfterMs / 1000);
  told.cause = error;
  return told;
}

/** `work`, whose rejections with a passing failure of the database become UNAVAILABLE. For what runs outside interceptors. */
export function tellingUnavailable<Arguments extends unknown[], Answer>(
  work: (...given: Arguments) => Promise<Answer>,
): (...given: Arguments) => Promise<Answer> {
  return async (...given) => {
    try {
      return await work(...given);
    } catch (error) {
      throw asUnavailable(error);
    }
  };
}

/** The same for every handler, streams included. Goes inside the interceptor that logs and outside all others. */
export function createUnavailableInterceptor(): Interceptor {
  return (next) => async (request) => {
    const response = await tellingUnavailable(next)(request);
    return response.stream ? { ...response, message: told(response.message) } : response;
  };
}

async function* told<Message>(messages: AsyncIterable<Message>): AsyncGenerator<Message> {
  try {
    yield* messages;
  } catch (error) {
    throw asUnavailable(error);
  }
}
