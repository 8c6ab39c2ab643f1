import type { Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { type Carrel, createCarrelOver, type TokenSource } from "./carrel.ts";

export * from "./carrel.ts";

export type CarrelOptions = {
  /** Where the installation is; usually `location.origin`. */
  baseUrl: string;
  /** A token, or a function that returns a fresh one; see TokenSource. */
  token?: TokenSource | undefined;
  /** Default `connect`, in its binary form. */
  protocol?: "connect" | "grpc-web";
  /** Replaces the transport; `baseUrl` and `protocol` then mean nothing. */
  transport?: Transport;
};

/** A client for browsers and whatever else has `fetch`. */
export function createCarrel({ baseUrl, token, protocol = "connect", transport }: CarrelOptions): Carrel {
  const create = protocol === "connect" ? createConnectTransport : createGrpcWebTransport;
  return createCarrelOver({ transport: transport ?? create({ baseUrl, useBinaryFormat: true }), token });
}
