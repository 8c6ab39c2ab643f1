import { randomUUID } from "node:crypto";
import { createContextKey } from "@connectrpc/connect";
import type { HttpRequest } from "./message.ts";

/** What the port knows of a request before anybody is authenticated. */
export type RequestInfo = {
  /** The client's `x-request-id` where it is a plain word, else ours. */
  requestId: string;
  /** `connect`, `grpc`, `grpc-web` or `rest`. */
  protocol: string;
  /** `1.1` or `2.0`. */
  httpVersion: string;
  /** Address of the peer; empty on a Unix socket. */
  address: string;
  /** True once the log has its line. */
  logged: boolean;
  /** True when the request gate refused it. */
  refusedByGate: boolean;
};

/** The request behind a call. Undefined only where a handler is called without a server. */
export const requestInfoKey = createContextKey<RequestInfo | undefined>(undefined, { description: "carrel.request" });

const plainWord = /^[A-Za-z0-9._-]{1,64}$/;

/** Collects it. A client's own id is taken only in a form that cannot forge log lines. */
export function requestInfoOf(request: HttpRequest, protocol: string): RequestInfo {
  const asked = request.headers["x-request-id"];
  return {
    requestId: typeof asked === "string" && plainWord.test(asked) ? asked : randomUUID(),
    protocol,
    httpVersion: request.httpVersion,
    address: request.socket?.remoteAddress ?? "",
    logged: false,
    refusedByGate: false,
  };
}

/** The protocol of an RPC request by its content type. */
export function rpcProtocolOf(request: HttpRequest): string {
  const type = request.headers["content-type"] ?? "";
  if (type.startsWith("application/grpc-web")) return "grpc-web";
  return type.startsWith("application/grpc") ? "grpc" : "connect";
}
