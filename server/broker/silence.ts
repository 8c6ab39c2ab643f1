import type { ClientRequest, IncomingMessage, ServerResponse } from "node:http";

/** A request of an agent that is passed on to a provider. */
export type Exchange = { request: IncomingMessage; upstream: ClientRequest; response: ServerResponse };

/**
 * Calls one of `over`, at most once, when nothing more has come for `ms`: `agent` where it is the agent that has not said all it asks, or
 * takes nothing of what has come, and so keeps us from reading on; else `provider`. Call what it answers whenever something comes.
 */
export function watchSilence({ request, upstream, response }: Exchange, ms: number, over: { agent(): void; provider(): void }): () => void {
  const timer = setTimeout(() => {
    const isUnsaid = !upstream.writableEnded && !upstream.writableNeedDrain;
    if (isUnsaid || response.writableNeedDrain) over.agent();
    else over.provider();
  }, ms);
  const heard = (): void => void timer.refresh();
  request.on("data", heard);
  response.on("drain", heard);
  response.once("close", () => clearTimeout(timer));
  return heard;
}
