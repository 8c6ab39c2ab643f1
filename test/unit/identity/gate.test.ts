import { createConnectRouter } from "@connectrpc/connect";
import type { UniversalServerRequest } from "@connectrpc/connect/protocol";
import { describe, expect, it } from "vitest";
import { ChannelService } from "../../../gen/carrel/v1/channel_service_pb.ts";
import { CredentialService } from "../../../gen/carrel/v1/credential_service_pb.ts";
import { createAuthorizationGate, createAuthorizationInterceptor, createAuthorizer } from "../../../server/identity/authorize.ts";

/** A server whose tokens are all good, and how often it verified one. */
function serve(withGate: boolean) {
  let verified = 0;
  const authorize = createAuthorizer({
    verify: async (token) => {
      verified += 1;
      return { issuer: "carrel", subject: token, email: undefined, operator: false, expiresAt: 0 };
    },
    findUser: async () => "0190a000-0000-7000-8000-000000000001",
    publicServices: [],
  });
  const router = createConnectRouter({
    interceptors: [createAuthorizationInterceptor(authorize)],
    ...(withGate && { requestGate: createAuthorizationGate(authorize) }),
  })
    .service(CredentialService, { getCredentialStatus: () => ({}) })
    .service(ChannelService, { async *watchEvents() {} });
  return { handlers: router.handlers, verified: () => verified };
}

async function call(server: ReturnType<typeof serve>, path: string, headers: Record<string, string>) {
  let bodyReads = 0;
  const body = {
    async *[Symbol.asyncIterator]() {
      bodyReads += 1;
      yield new Uint8Array(path.endsWith("WatchEvents") ? 5 : 0);
    },
  };
  const handler = server.handlers.find(({ requestPath }) => requestPath === path)!;
  const request: UniversalServerRequest = {
    httpVersion: "2.0",
    method: "POST",
    url: `http://localhost${path}`,
    header: new Headers(headers),
    body,
    signal: new AbortController().signal,
  };
  const response = await handler(request);
  const answer: Uint8Array[] = [];
  for await (const chunk of response.body as AsyncIterable<Uint8Array>) answer.push(chunk);
  return { bodyReads, answer: Buffer.concat(answer).toString("latin1") };
}

const unary = ["/carrel.v1.CredentialService/GetCredentialStatus", { "content-type": "application/proto" }] as const;
const stream = ["/carrel.v1.ChannelService/WatchEvents", { "content-type": "application/connect+proto" }] as const;

describe("without a token", () => {
  it.each([
    ["a unary call behind the gate", true, unary],
    ["a stream behind the gate", true, stream],
    ["a stream behind the interceptor alone", false, stream],
  ])("%s is refused with nothing of its body read", async (_what, withGate, [path, headers]) => {
    const { bodyReads, answer } = await call(serve(withGate), path, headers);
    expect(answer).toContain("unauthenticated");
    expect(bodyReads).toBe(0);
  });
});

describe("with a token", () => {
  it.each([unary, stream])("%s is verified once by gate and interceptor together", async (path, headers) => {
    const server = serve(true);
    const { bodyReads, answer } = await call(server, path, { ...headers, authorization: "Bearer good" });
    expect(answer).not.toContain("unauthenticated");
    expect(bodyReads).toBe(1);
    expect(server.verified()).toBe(1);
  });
});
