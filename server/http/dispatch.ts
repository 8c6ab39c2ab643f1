import { type ContextValues, createContextValues } from "@connectrpc/connect";
import type { UniversalHandler } from "@connectrpc/connect/protocol";
import { errorToJson } from "@connectrpc/connect/protocol-connect";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { reasonOf, refusal } from "../errors.ts";
import type { Log } from "../log.ts";
import { envelopedResponseKey } from "./direct-stream.ts";
import type { ReadyCheck } from "./health.ts";
import type { HttpLimits } from "./limits.ts";
import { rpcName, tell } from "./log-interceptor.ts";
import { authorityOf, type HttpRequest, type HttpResponse, isOver, sendJson, type Target, targetOf } from "./message.ts";
import { isPreflight, type Origins, originRefused } from "./origins.ts";
import { headersTooLarge } from "./raw-answers.ts";
import { type RequestInfo, requestInfoKey, requestInfoOf, rpcProtocolOf } from "./request-info.ts";
import { type RestSurface, refuseVerb, sendRestError } from "./rest/surface.ts";
import { serveRpc } from "./rpc.ts";

/** Answers what no other part of the port knows, for example the web app. True when it took the request. */
export type Fallback = (request: HttpRequest, response: HttpResponse) => boolean | Promise<boolean>;

/** The parts a request may go to. */
export type DispatchOptions = {
  handlers: ReadonlyMap<string, UniversalHandler>;
  rest: RestSurface;
  origins: Origins;
  ready: ReadyCheck;
  /** The OpenAPI document, already JSON-ready. */
  openApi: unknown;
  fallback: Fallback | undefined;
  limits: HttpLimits;
  log: Log;
};

/** The one function that every request of either HTTP version goes through. Never throws. */
export function createDispatch(options: DispatchOptions): (request: HttpRequest, response: HttpResponse) => void {
  return (request, response) => {
    answer(options, request, response).catch((error: unknown) => {
      if (isOver(response)) return;
      options.log.error({ err: error }, "request failed");
      if (response.headersSent) response.destroy();
      else sendRestError(request, response, error);
    });
  };
}

async function answer(options: DispatchOptions, request: HttpRequest, response: HttpResponse): Promise<void> {
  response.setHeader("x-content-type-options", "nosniff");
  options.origins.decorate(request, response);
  const target = targetOf(request.url);
  if (!target || !URL.canParse(`http://${authorityOf(request)}`))
    return sendRestError(request, response, refusal(ErrorReason.INVALID_ARGUMENT, "this is not a path on a host"));
  if (isHeaderTooLarge(request, options.limits.headerBytes))
    return sendJson(request, response, headersTooLarge.status, headersTooLarge.body);
  const handler = options.handlers.get(target.path);
  if (!options.origins.allows(request)) {
    const harmless = (request.method === "GET" || request.method === "HEAD") && handler?.method.methodKind !== "server_streaming";
    if (!harmless) return refuseOrigin(request, response, handler !== undefined);
  }
  if (isPreflight(request)) return options.origins.answerPreflight(request, response);
  if (handler) return callRpc(options, handler, request, response);
  if (target.path.startsWith("/v1/") || target.path === "/v1") return callRest(options, request, response, target);
  return callPlain(options, request, response, target);
}

// Node's HTTP/2 server only tells clients of the limit; its own parser stops at 64 KiB.
function isHeaderTooLarge(request: HttpRequest, limit: number): boolean {
  return request.httpVersionMajor === 2 && request.rawHeaders.reduce((size, text) => size + text.length, 0) > limit;
}

async function callRpc(options: DispatchOptions, handler: UniversalHandler, request: HttpRequest, response: HttpResponse): Promise<void> {
  if (!handler.allowedMethods.includes(request.method ?? "")) return refuseVerb(request, response, handler.allowedMethods);
  const info = requestInfoOf(request, rpcProtocolOf(request));
  response.once("close", () => logUnheard(options.log, info, response, rpcName(handler.service.typeName, handler.method.name)));
  try {
    await serveRpc(handler, request, response, valuesOf(info, response).set(envelopedResponseKey, response), options.limits);
  } catch (error) {
    // A reader that goes away in the middle is no fault of this server.
    if (isOver(response)) return;
    if (!response.headersSent && reasonOf(error) !== undefined) return sendRestError(request, response, error);
    if (!response.headersSent) throw error;
    options.log.info({ request_id: info.requestId, err: tell(error) }, "answer was cut");
    response.destroy();
  }
}

async function callRest(options: DispatchOptions, request: HttpRequest, response: HttpResponse, target: Target): Promise<void> {
  const info = requestInfoOf(request, "rest");
  response.once("close", () => logUnheard(options.log, info, response, undefined));
  await options.rest.handle(request, response, target, valuesOf(info, response));
}

function valuesOf(info: RequestInfo, response: HttpResponse): ContextValues {
  response.setHeader("x-request-id", info.requestId);
  return createContextValues().set(requestInfoKey, info);
}

// Requests refused before any interceptor ran have no line yet. No path: it may hold anything.
function logUnheard(log: Log, info: RequestInfo, response: HttpResponse, rpc: string | undefined): void {
  if (info.logged) return;
  log.info(
    {
      rpc,
      protocol: info.protocol,
      http: info.httpVersion,
      status: response.headersSent ? response.statusCode : undefined,
      request_id: info.requestId,
    },
    "request refused",
  );
}

async function callPlain(options: DispatchOptions, request: HttpRequest, response: HttpResponse, target: Target): Promise<void> {
  const isRead = request.method === "GET" || request.method === "HEAD";
  const plain = plainAnswers[target.path];
  if (plain) {
    if (!isRead) return refuseVerb(request, response, ["GET"]);
    const { status, body } = await plain(options);
    return sendJson(request, response, status, body);
  }
  if (options.fallback && (await options.fallback(request, response))) return;
  sendRestError(request, response, refusal(ErrorReason.NOT_FOUND, "no such path"));
}

type PlainAnswer = (options: DispatchOptions) => Promise<{ status: number; body: unknown }>;

const plainAnswers: Readonly<Record<string, PlainAnswer | undefined>> = Object.assign(Object.create(null) as Record<string, PlainAnswer>, {
  "/healthz": async () => ({ status: 200, body: { status: "ok" } }),
  "/readyz": async (options: DispatchOptions) =>
    (await options.ready()) ? { status: 200, body: { status: "ready" } } : { status: 503, body: { status: "not ready" } },
  "/openapi": async (options: DispatchOptions) => ({ status: 200, body: options.openApi }),
});

// In the form that the caller's protocol reads.
function refuseOrigin(request: HttpRequest, response: HttpResponse, isRpc: boolean): void {
  const error = originRefused(request);
  if (!isRpc) return sendRestError(request, response, error);
  sendJson(request, response, 403, { ...errorToJson(tell(error), undefined), error: "origin_not_allowed", details: undefined });
  request.resume();
}
