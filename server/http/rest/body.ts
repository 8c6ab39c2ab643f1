import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../../errors.ts";
import type { HttpRequest } from "../message.ts";

/**
 * Reads a whole body of JSON. Zero bytes are fine under any content type. Refuses with TOO_LARGE as soon as the limit is
 * passed, and with UNSUPPORTED_MEDIA_TYPE for anything that is not plain JSON.
 */
export async function readBody(request: HttpRequest, limit: number): Promise<Buffer> {
  const announced = Number(request.headers["content-length"] ?? 0);
  if (announced > limit) throw refuseUnread(request, tooLarge(limit));
  if (announced === 0 && !mayHaveBody(request)) return Buffer.alloc(0);
  const chunks: Buffer[] = [];
  let size = 0;
  await new Promise<void>((resolve, reject) => {
    request.on("data", (chunk: Buffer) => {
      size += chunk.byteLength;
      if (size <= limit) chunks.push(chunk);
      else reject(tooLarge(limit));
    });
    request.once("end", resolve);
    request.once("error", reject);
    request.once("close", () => reject(new Error("the request ended before its body")));
  });
  if (size > 0) checkType(request);
  return Buffer.concat(chunks, size);
}

// HTTP/1.1 says so by a header; on HTTP/2 a body needs neither, and the end of the stream tells.
function mayHaveBody(request: HttpRequest): boolean {
  return request.httpVersionMajor === 2 ? !request.readableEnded : request.headers["transfer-encoding"] !== undefined;
}

function checkType(request: HttpRequest): void {
  const type = request.headers["content-type"] ?? "";
  if (!/^application\/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?$/i.test(type)) {
    throw refusal(ErrorReason.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json", { content_type: type.slice(0, 100) });
  }
  const encoding = request.headers["content-encoding"];
  if (encoding !== undefined && encoding !== "identity") {
    throw refusal(ErrorReason.UNSUPPORTED_MEDIA_TYPE, "the body must not be compressed", {
      content_encoding: String(encoding).slice(0, 100),
    });
  }
}

// What still comes is thrown away, so that the client can finish and read its answer.
function refuseUnread(request: HttpRequest, error: Error): Error {
  request.resume();
  return error;
}

function tooLarge(limit: number): Error {
  return refusal(ErrorReason.TOO_LARGE, `the body is larger than ${limit} bytes`, { limit: String(limit) });
}
