import { STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../errors.ts";
import { restErrorOf } from "./rest/errors.ts";

/** An answer for a connection that no request object stands for. */
export type RawAnswer = { status: number; body: unknown };

function rawAnswer(status: number, error: Error): RawAnswer {
  return { status, body: restErrorOf(error).body };
}

/** A request that did not arrive in time. */
export const timedOut: RawAnswer = rawAnswer(408, refusal(ErrorReason.DEADLINE_EXCEEDED, "the request did not arrive in time"));

/** A header block over its limit. */
export const headersTooLarge: RawAnswer = rawAnswer(431, refusal(ErrorReason.TOO_LARGE, "the header is too large"));
const notHttp = rawAnswer(400, refusal(ErrorReason.INVALID_ARGUMENT, "this is not a request that can be read"));

/** The answer to what Node's HTTP/1.1 parser gave up on. */
export function answerToParserError(code: string | undefined): RawAnswer {
  if (code === "HPE_HEADER_OVERFLOW") return headersTooLarge;
  return code === "ERR_HTTP_REQUEST_TIMEOUT" ? timedOut : notHttp;
}

/** The answer that an error stands for. */
export function rawAnswerOf(error: unknown): RawAnswer {
  const { status, body } = restErrorOf(error);
  return { status, body };
}

/** Writes an answer by hand and closes the connection. */
export function writeRawAnswer(socket: Duplex, { status, body }: RawAnswer): void {
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const text = JSON.stringify(body);
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ""}`,
    "connection: close",
    "content-type: application/json",
    "x-content-type-options: nosniff",
    ...(status === 401 ? ["www-authenticate: Bearer"] : []),
    `content-length: ${Buffer.byteLength(text)}`,
  ].join("\r\n");
  socket.end(`${head}\r\n\r\n${text}`, () => socket.destroy());
}
