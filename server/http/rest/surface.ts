import { type DescMethodUnary, getOption } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ContextValues,
  createHandlerContext,
  type HandlerContext,
  type Interceptor,
  type MethodImplSpec,
} from "@connectrpc/connect";
import { invokeUnaryImplementation } from "@connectrpc/connect/protocol";
import { parseTimeout } from "@connectrpc/connect/protocol-connect";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { success_status } from "../../../gen/carrel/v1/options_pb.ts";
import { refusal } from "../../errors.ts";
import type { HttpLimits } from "../limits.ts";
import { authorityOf, type HttpRequest, type HttpResponse, isOver, sendJson, type Target, webHeadersOf } from "../message.ts";
import { departureOf } from "../universal-request.ts";
import { type Binder, createBinder } from "./bind.ts";
import { readBody } from "./body.ts";
import { restErrorOf } from "./errors.ts";
import { createMessageReaders } from "./reader.ts";
import { bindingsOf, createRoutes } from "./routes.ts";
import { createMessageWriters, type MessageWriter } from "./writer.ts";

/** What REST needs of the methods it serves. */
export type RestOptions = {
  methods: readonly MethodImplSpec[];
  interceptors: Interceptor[];
  /** Runs before a body is read, as on the other protocols. */
  requestGate: ((context: HandlerContext) => void | Promise<void>) | undefined;
  limits: HttpLimits;
  /** Aborts calls that are still open when the server's grace is over. */
  shutdownSignal: AbortSignal;
};

/** The REST surface of a set of methods. */
export type RestSurface = {
  /** Answers one request; also the refusals of paths and verbs. Throws only for faults of the port itself. */
  handle(request: HttpRequest, response: HttpResponse, target: Target, values: ContextValues): Promise<void>;
};

type Endpoint = { spec: MethodImplSpec & { kind: "unary" }; bind: Binder; write: MessageWriter; status: number };

/** Derives REST from the google.api.http options; methods without one are left out. The calls run through the same interceptors and functions as every protocol's. */
export function createRestSurface(options: RestOptions): RestSurface {
  const routes = createRoutes<Endpoint>();
  const readerOf = createMessageReaders();
  const writerOf = createMessageWriters();
  for (const spec of options.methods) {
    for (const binding of bindingsOf(spec.method)) {
      if (spec.kind !== "unary") throw new Error(`${spec.method.toString()}: a stream has no REST form`);
      const method: DescMethodUnary = spec.method;
      const status = getOption(method, success_status) || 200;
      routes.add(binding, { spec, bind: createBinder(method, binding, readerOf), write: writerOf(method.output), status });
    }
  }
  return {
    async handle(request, response, target, values) {
      const found = routes.find(target.path);
      if (!found) return sendRestError(request, response, refusal(ErrorReason.NOT_FOUND, "no such path", {}));
      const endpoint = found.verbs.get(request.method === "HEAD" ? "GET" : (request.method ?? ""));
      if (!endpoint) return refuseVerb(request, response, [...found.verbs.keys()]);
      await serve(options, endpoint, request, response, { target, values, raw: found.values });
    },
  };
}

/** Sends a refusal in the REST form. */
export function sendRestError(request: HttpRequest, response: HttpResponse, error: unknown): void {
  if (isOver(response) || response.headersSent) return;
  const { status, headers, body } = restErrorOf(error);
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  sendJson(request, response, status, body);
  request.resume();
}

/** Answers a verb that a path does not have: OPTIONS with the list, everything else with METHOD_NOT_ALLOWED. */
export function refuseVerb(request: HttpRequest, response: HttpResponse, verbs: readonly string[]): void {
  const allowed = [...verbs, ...(verbs.includes("GET") ? ["HEAD"] : []), "OPTIONS"].join(", ");
  response.setHeader("allow", allowed);
  if (request.method !== "OPTIONS") {
    return sendRestError(request, response, refusal(ErrorReason.METHOD_NOT_ALLOWED, "this path does not have that method", { allowed }));
  }
  response.statusCode = 204;
  response.end();
  request.resume();
}

// One for all calls: without it every abort would make an error with a stack trace.
const callEnded = new ConnectError("the call has ended", Code.Canceled);

type Call = { target: Target; values: ContextValues; raw: readonly string[] };

async function serve(options: RestOptions, endpoint: Endpoint, request: HttpRequest, response: HttpResponse, call: Call): Promise<void> {
  const context = contextOf(options, endpoint, request, call, departureOf(response));
  try {
    if (context.timeout.error) throw context.timeout.error;
    await options.requestGate?.(context.handler);
    const body = await readBody(request, options.limits.requestBytes);
    const input = endpoint.bind({ values: call.raw, query: call.target.query, body });
    const output = await invokeUnaryImplementation(endpoint.spec, context.handler, input, options.interceptors);
    sendAnswer(options.limits, request, response, endpoint, context.handler, JSON.stringify(endpoint.write(output)));
  } catch (error) {
    // What no interceptor has made a refusal of is a fault of the port itself, and the dispatcher's to log.
    if (!(error instanceof ConnectError)) throw error;
    sendRestError(request, response, error);
  } finally {
    context.handler.abort(callEnded);
  }
}

function contextOf(options: RestOptions, endpoint: Endpoint, request: HttpRequest, call: Call, requestSignal: AbortSignal) {
  const { method } = endpoint.spec;
  const requestHeader = webHeadersOf(request);
  const timeout = parseTimeout(requestHeader.get("connect-timeout-ms"), options.limits.maxUnaryDeadlineMs);
  const handler = createHandlerContext({
    service: method.parent,
    method,
    protocolName: "rest",
    requestMethod: request.method ?? "",
    url: `http://${authorityOf(request)}${call.target.path}`,
    timeoutMs: timeout.error ? options.limits.unaryDeadlineMs : (timeout.timeoutMs ?? options.limits.unaryDeadlineMs),
    shutdownSignal: options.shutdownSignal,
    requestSignal,
    requestHeader,
    contextValues: call.values,
  });
  return { handler, timeout };
}

function sendAnswer(
  limits: HttpLimits,
  request: HttpRequest,
  response: HttpResponse,
  endpoint: Endpoint,
  context: HandlerContext,
  json: string,
): void {
  if (isOver(response)) return;
  const bytes = Buffer.from(json);
  if (bytes.byteLength > limits.responseBytes) {
    throw refusal(ErrorReason.TOO_LARGE, `the answer is larger than ${limits.responseBytes} bytes, ask for less`, {
      limit: String(limits.responseBytes),
    });
  }
  for (const [name, value] of context.responseHeader) response.setHeader(name, value);
  response.statusCode = endpoint.status;
  response.setHeader("content-type", "application/json");
  response.setHeader("cache-control", "no-store");
  response.setHeader("content-length", bytes.byteLength);
  if (request.method === "HEAD") response.end();
  else response.end(bytes);
}
