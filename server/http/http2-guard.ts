import { constants, type Http2Server, type IncomingHttpHeaders, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import type { HttpLimits } from "./limits.ts";
import { targetOf } from "./message.ts";
import { timedOut } from "./raw-answers.ts";

/**
 * The timeouts that Node's HTTP/2 server lacks: a session must open its first stream within `headersTimeoutMs`, a body must be
 * complete within `bodyTimeoutMs`, and a session without streams is closed after `idleTimeoutMs`. Answers are never cut.
 * `mayStayOpen` names paths whose bodies are open-ended streams.
 */
export function guardHttp2(server: Http2Server, limits: HttpLimits, mayStayOpen: (path: string) => boolean): void {
  server.on("session", (session) => {
    const closeWhenIdle = watchIdle(session, limits);
    session.on("stream", (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, flags: number) => {
      closeWhenIdle.opened(stream);
      const complete = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0;
      if (!complete && !mayStayOpen(targetOf(headers[":path"])?.path ?? "")) limitBody(stream, limits.bodyTimeoutMs);
    });
  });
}

function watchIdle(session: ServerHttp2Session, limits: HttpLimits): { opened(stream: ServerHttp2Stream): void } {
  let open = 0;
  const first = setTimeout(() => session.destroy(), limits.headersTimeoutMs);
  session.once("close", () => clearTimeout(first));
  session.setTimeout(limits.idleTimeoutMs, () => {
    if (open === 0) session.close();
  });
  // A peer that breaks the protocol or goes away is its own loss; the session is gone and nothing waits for it.
  session.on("error", () => session.destroy());
  return {
    opened(stream) {
      clearTimeout(first);
      open++;
      stream.once("close", () => {
        open--;
      });
    },
  };
}

function limitBody(stream: ServerHttp2Stream, ms: number): void {
  const timer = setTimeout(() => {
    if (stream.headersSent || stream.destroyed) return stream.close(constants.NGHTTP2_CANCEL);
    stream.respond({ ":status": timedOut.status, "content-type": "application/json", "x-content-type-options": "nosniff" });
    stream.end(JSON.stringify(timedOut.body), () => stream.close(constants.NGHTTP2_NO_ERROR));
  }, ms);
  stream.once("end", () => clearTimeout(timer));
  stream.once("close", () => clearTimeout(timer));
}
