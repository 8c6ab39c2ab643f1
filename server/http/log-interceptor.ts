import { Code, ConnectError, type ContextValues, type Interceptor, type StreamResponse, type UnaryResponse } from "@connectrpc/connect";
import { codeToString } from "@connectrpc/connect/protocol-connect";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { reasonOf, refusal } from "../errors.ts";
import { userKey } from "../identity/principal.ts";
import type { Log } from "../log.ts";
import { requestInfoKey } from "./request-info.ts";

/**
 * The outermost interceptor: one line per call when it ends, a stream's at its end. Never bodies, tokens or query strings.
 * Whatever a handler throws leaves as a ConnectError that says nothing of this server's insides; a unary call whose deadline
 * has passed is answered then, also when its handler does not listen.
 */
export function createLogInterceptor(log: Log): Interceptor {
  return (next) => async (request) => {
    const call: Call = {
      log,
      rpc: rpcName(request.service.typeName, request.method.name),
      values: request.contextValues,
      started: performance.now(),
    };
    try {
      const response = await (request.stream
        ? next({ ...request, message: readable(request.message) })
        : untilAborted(next(request), request.signal));
      if (response.stream) return { ...response, message: observed(response, call) };
      logEnd(call, undefined);
      return response;
    } catch (error) {
      const told = tell(error, request.signal);
      logEnd(call, told);
      throw told;
    }
  };
}

/** `carrel.v1.SessionService/GetSession`. */
export function rpcName(service: string, method: string): string {
  return `${service}/${method}`;
}

/** The error a client may see: itself where it is ours, the deadline or cancellation where that is what ended the call, else `internal error`. */
export function tell(error: unknown, signal?: AbortSignal): ConnectError {
  if (reasonOf(error) !== undefined) return error as ConnectError;
  if (signal?.aborted && isAbort(error)) return tell(signal.reason);
  if (error instanceof ConnectError && !opaque.has(error.code)) return error;
  if (isAbort(error)) return new ConnectError("the call was canceled", Code.Canceled, undefined, undefined, error);
  const told = refusal(ErrorReason.INTERNAL, "internal error");
  told.cause = error;
  return told;
}

// Codes that a library uses for what it did not expect: their text may be anything.
const opaque: ReadonlySet<Code> = new Set([Code.Internal, Code.Unknown, Code.DataLoss]);

/** Also a client's body that broke off: Connect wraps what Node says of it. */
function isAbort(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (
    error.name === "AbortError" ||
    error.name === "TimeoutError" ||
    (error as NodeJS.ErrnoException).code === "ERR_STREAM_PREMATURE_CLOSE"
  )
    return true;
  return error instanceof ConnectError && isAbort(error.cause);
}

type Call = { log: Log; rpc: string; values: ContextValues; started: number };

async function untilAborted<T extends UnaryResponse | StreamResponse>(answer: Promise<T>, signal: AbortSignal): Promise<T> {
  let stop: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason instanceof Error ? signal.reason : new DOMException("aborted", "AbortError"));
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([answer, aborted]);
  } finally {
    if (stop) signal.removeEventListener("abort", stop);
  }
}

// The library calls a message it cannot read an internal error, but it is the sender's.
async function* readable<T>(messages: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    if (!(error instanceof ConnectError) || error.code !== Code.Internal) throw error;
    throw refusal(ErrorReason.MALFORMED_BODY, "the message cannot be read");
  }
}

async function* observed(
  response: StreamResponse,
  call: Call,
): AsyncGenerator<StreamResponse["message"] extends AsyncIterable<infer M> ? M : never> {
  // Left so when the reader goes away in the middle.
  let end: ConnectError | undefined = new ConnectError("the reader went away", Code.Canceled);
  try {
    yield* response.message;
    end = undefined;
  } catch (error) {
    end = tell(error);
    throw end;
  } finally {
    logEnd(call, end);
  }
}

function logEnd({ log, rpc, values, started }: Call, error: ConnectError | undefined): void {
  const info = values.get(requestInfoKey);
  if (info) info.logged = true;
  const level = levelOf(error?.code);
  if (!log.isLevelEnabled(level)) return;
  log[level](
    {
      rpc,
      protocol: info?.protocol,
      http: info?.httpVersion,
      code: error ? codeToString(error.code) : "ok",
      ms: Math.round((performance.now() - started) * 10) / 10,
      request_id: info?.requestId,
      user_id: values.get(userKey)?.userId,
      ...(level === "error" ? { cause: causes(error) } : {}),
    },
    "call ended",
  );
}

function levelOf(code: Code | undefined): "info" | "warn" | "error" {
  if (code !== undefined && opaque.has(code)) return "error";
  return code === Code.Unavailable || code === Code.DeadlineExceeded ? "warn" : "info";
}

// The chain of causes, bounded, because an error may be its own cause.
function causes(error: unknown): string[] {
  const chain: string[] = [];
  for (
    let cause = error instanceof Error ? error.cause : undefined;
    cause !== undefined && chain.length < 8;
    cause = cause instanceof Error ? cause.cause : undefined
  ) {
    chain.push(cause instanceof Error ? (cause.stack ?? cause.message) : String(cause));
  }
  return chain;
}
