import type { DescService } from "@bufbuild/protobuf";
import {
  type ConnectRouter,
  type ConnectRouterOptions,
  type ContextValues,
  createConnectRouter,
  createServiceImplSpec,
  type HandlerContext,
  type Interceptor,
  type MethodImplSpec,
} from "@connectrpc/connect";
import { createAsyncIterable, type UniversalHandler, type UniversalServerResponse } from "@connectrpc/connect/protocol";
import { errorToJsonBytes } from "@connectrpc/connect/protocol-connect";
import { compressionGzip, universalResponseToNodeResponse } from "@connectrpc/connect-node";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../errors.ts";
import type { HttpLimits } from "./limits.ts";
import { type HttpRequest, type HttpResponse, isOver } from "./message.ts";
import { requestInfoKey } from "./request-info.ts";
import { universalRequestOf } from "./universal-request.ts";

/** How a group of services is served. */
export type RpcOptions = {
  routes: (router: ConnectRouter) => void;
  interceptors: Interceptor[];
  requestGate: ((context: HandlerContext) => void | Promise<void>) | undefined;
  limits: HttpLimits;
  /** Aborts streams as soon as the server begins to close. */
  drainSignal: AbortSignal;
  /** Aborts whatever is still open when its grace is over. */
  shutdownSignal: AbortSignal;
};

/** The methods of a group, ready to be served. */
export type RpcGroup = { handlers: UniversalHandler[]; methods: MethodImplSpec[] };

/** Collects what `routes` registers. Streams and unary calls get limits of their own. */
export function createRpcGroup(options: RpcOptions): RpcGroup {
  const methods: MethodImplSpec[] = [];
  const inner = createConnectRouter(commonOptions(options));
  const unary = { shutdownSignal: options.shutdownSignal, maxTimeoutMs: options.limits.maxUnaryDeadlineMs };
  const stream = { shutdownSignal: options.drainSignal, maxTimeoutMs: options.limits.maxStreamDeadlineMs };
  const add = (spec: MethodImplSpec): void => {
    methods.push(spec);
    const rpc = inner.rpc as (method: MethodImplSpec["method"], impl: MethodImplSpec["impl"], options: ConnectRouterOptions) => unknown;
    rpc(spec.method, spec.impl, spec.kind === "unary" ? unary : stream);
  };
  const router: ConnectRouter = {
    handlers: inner.handlers,
    service(desc: DescService, implementation) {
      Object.values(createServiceImplSpec(desc, implementation).methods).forEach(add);
      return router;
    },
    rpc() {
      throw new Error("register whole services");
    },
  };
  options.routes(router);
  return { handlers: inner.handlers, methods };
}

function commonOptions({ limits, interceptors, requestGate }: RpcOptions): ConnectRouterOptions {
  return {
    acceptCompression: [compressionGzip],
    readMaxBytes: limits.requestBytes,
    writeMaxBytes: limits.responseBytes,
    requireConnectProtocolHeader: false,
    // The library's default would take a misspelt field or an unknown enum value of JSON as absent.
    jsonOptions: { ignoreUnknownFields: false },
    interceptors,
    ...(requestGate ? { requestGate } : {}),
  };
}

// The library calls protobuf it cannot read an internal error; only Connect's unary calls show that as an HTTP status.
function correct(answer: UniversalServerResponse, values: ContextValues): UniversalServerResponse {
  const info = values.get(requestInfoKey);
  if (answer.status !== 500 || !info || info.logged || info.refusedByGate) return answer;
  const body = errorToJsonBytes(refusal(ErrorReason.MALFORMED_BODY, "the message cannot be read"), undefined);
  return { status: 400, header: new Headers({ "content-type": "application/json" }), body: createAsyncIterable([body]) };
}

/** Runs one request through its handler and writes the answer. Throws what went wrong after the answer had begun. */
export async function serveRpc(
  handler: UniversalHandler,
  request: HttpRequest,
  response: HttpResponse,
  values: ContextValues,
  limits: HttpLimits,
): Promise<void> {
  const universal = universalRequestOf(request, response, values);
  const deadline = defaultDeadline(handler, limits);
  if (deadline !== undefined) giveDeadline(universal.header, deadline);
  const answer = correct(await handler(universal), values);
  // The library reads no body after a refusal; what still comes is thrown away, so that the client can finish sending.
  response.once("finish", () => request.resume());
  if (answer.status === 415) throw refusal(ErrorReason.UNSUPPORTED_MEDIA_TYPE, "this content type is none of this method's");
  if (handler.method.methodKind === "unary" && answer.trailer === undefined) await writeWhole(answer, response);
  else await universalResponseToNodeResponse(answer, response);
}

// A unary answer of Connect is one piece; writing it so is markedly cheaper than as a stream.
async function writeWhole({ status, header, body }: UniversalServerResponse, response: HttpResponse): Promise<void> {
  const chunks: Uint8Array[] = [];
  if (body) for await (const chunk of body) chunks.push(chunk);
  if (isOver(response)) return;
  response.statusCode = status;
  header?.forEach((value, name) => response.setHeader(name, value));
  const [first, ...rest] = chunks;
  response.end(first && rest.length === 0 ? first : Buffer.concat(chunks));
}

// Streams have none, but those that are open to anybody end some time.
function defaultDeadline({ method, service }: UniversalHandler, limits: HttpLimits): number | undefined {
  if (method.methodKind === "unary") return limits.unaryDeadlineMs;
  return service.typeName.startsWith("grpc.") ? limits.maxUnaryDeadlineMs : undefined;
}

// Only where the client names none.
function giveDeadline(header: Headers, ms: number): void {
  const name = header.get("content-type")?.startsWith("application/grpc") ? "grpc-timeout" : "connect-timeout-ms";
  if (!header.has(name)) header.set(name, name === "grpc-timeout" ? `${ms}m` : String(ms));
}
