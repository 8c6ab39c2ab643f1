import { request as http1Request } from "node:http";
import { connect } from "node:http2";
import type { Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";

/** The columns of the matrix. */
export const httpVersions = ["http1", "http2"] as const;
export type HttpVersion = (typeof httpVersions)[number];

/** The rows of the matrix that Connect's own clients speak. */
export const rpcProtocols = ["grpc", "grpc-web", "connect-binary", "connect-json"] as const;
export type RpcProtocol = (typeof rpcProtocols)[number];

/** A transport of one cell. Throws for gRPC over HTTP/1.1. */
export function transportOf(protocol: RpcProtocol, version: HttpVersion, baseUrl: string, useHttpGet = false): Transport {
  const httpVersion = version === "http1" ? "1.1" : "2";
  switch (protocol) {
    case "grpc":
      if (version === "http1") throw new Error("gRPC needs HTTP/2");
      return createGrpcTransport({ baseUrl });
    case "grpc-web":
      return createGrpcWebTransport({ baseUrl, httpVersion });
    default:
      return createConnectTransport({ baseUrl, httpVersion, useBinaryFormat: protocol === "connect-binary", useHttpGet });
  }
}

/** A whole answer of a plain HTTP request. */
export type PlainAnswer = { status: number; headers: Record<string, string | string[] | undefined>; text: string };

/** One plain request without any library of ours; a body is sent as it is. */
export function plainRequest(
  version: HttpVersion,
  url: string,
  init: { method?: string; headers?: Record<string, string>; body?: string | Buffer } = {},
): Promise<PlainAnswer> {
  return version === "http1" ? plainHttp1(url, init) : plainHttp2(url, init);
}

type PlainInit = { method?: string; headers?: Record<string, string>; body?: string | Buffer };

function plainHttp1(url: string, init: PlainInit): Promise<PlainAnswer> {
  return new Promise((resolve, reject) => {
    const { origin } = new URL(url);
    // The path as it is written: URL would repair what these tests want broken.
    const request = http1Request(
      origin,
      {
        method: init.method ?? "GET",
        path: url.slice(origin.length) || "/",
        headers: { ...(init.body === undefined ? {} : { "content-length": Buffer.byteLength(init.body) }), ...init.headers },
        agent: false,
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("error", reject);
        response.on("end", () =>
          resolve({ status: response.statusCode ?? 0, headers: response.headers, text: Buffer.concat(chunks).toString() }),
        );
      },
    );
    request.on("error", reject);
    request.end(init.body);
  });
}

function plainHttp2(url: string, init: PlainInit): Promise<PlainAnswer> {
  return new Promise((resolve, reject) => {
    const { origin } = new URL(url);
    const session = connect(origin);
    const stream = session.request(
      { ":method": init.method ?? "GET", ":path": url.slice(origin.length) || "/", ...init.headers },
      { endStream: init.body === undefined },
    );
    const chunks: Buffer[] = [];
    let headers: Record<string, string | string[] | undefined> = {};
    const fail = (error: Error): void => {
      session.destroy();
      reject(error);
    };
    session.on("error", fail);
    stream.on("error", fail);
    stream.on("response", (got) => {
      headers = Object.fromEntries(Object.entries(got).map(([name, value]) => [name, typeof value === "number" ? String(value) : value]));
    });
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("end", () => {
      session.close();
      resolve({ status: Number(headers[":status"]), headers, text: Buffer.concat(chunks).toString() });
    });
    if (init.body !== undefined) stream.end(init.body);
  });
}
