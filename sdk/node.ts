import type { Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { type Carrel, createCarrelOver, type TokenSource } from "./carrel.ts";

export * from "./carrel.ts";

export type CarrelOptions = {
  /** Where the installation is, for example `http://127.0.0.1:8080`. */
  baseUrl: string;
  /** A token, or a function that returns a fresh one; see TokenSource. */
  token?: TokenSource | undefined;
  /** Default `connect`, in its binary form. */
  protocol?: "connect" | "grpc" | "grpc-web";
  /**
   * Default `2`: one connection carries every watch and call, in clear text by prior knowledge. `1.1` is for proxies that
   * speak nothing else; gRPC needs `2`.
   */
  httpVersion?: "1.1" | "2";
  /** Replaces the transport; `baseUrl`, `protocol` and `httpVersion` then mean nothing. */
  transport?: Transport;
};

/** Pings find a connection that died without a word; without them a new stream would be put on the same dead connection. */
const pings = { pingIntervalMs: 20_000, pingTimeoutMs: 10_000 };

const createTransport = { connect: createConnectTransport, grpc: createGrpcTransport, "grpc-web": createGrpcWebTransport };

/** A client for Node. */
export function createCarrel({ baseUrl, token, protocol = "connect", httpVersion = "2", transport }: CarrelOptions): Carrel {
  if (transport) return createCarrelOver({ transport, token });
  if (httpVersion === "2") {
    const sessionManager = new Http2SessionManager(baseUrl, pings);
    return createCarrelOver({
      transport: createTransport[protocol]({ baseUrl, httpVersion, sessionManager }),
      token,
      close: () => sessionManager.abort(),
    });
  }
  if (protocol === "grpc") throw new TypeError("gRPC needs httpVersion 2");
  return createCarrelOver({ transport: createTransport[protocol]({ baseUrl, httpVersion }), token });
}
