import { readFileSync } from "node:fs";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ChannelService } from "../../gen/carrel/v1/channel_service_pb.ts";
import { RegistrationService } from "../../gen/carrel/v1/registration_service_pb.ts";
import { SessionService } from "../../gen/carrel/v1/session_service_pb.ts";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import {
  type HttpVersion,
  httpVersions,
  type PlainAnswer,
  plainRequest,
  type RpcProtocol,
  rpcProtocols,
  transportOf,
} from "./protocols-client.ts";

/** A running server and a token that it takes; whoever holds it is registered by the suite. */
export type Started = { url: string; token: string; close(): Promise<void> };

const kinds = ["success", "error", "deadline", "stream", "get"] as const;
type Kind = (typeof kinds)[number];
type Attempt = (server: Started, version: HttpVersion) => Promise<void>;

const nobodysSession = `ses_${"0".repeat(32)}`;

/** Runs every cell of {gRPC, gRPC-Web, Connect binary, Connect JSON, REST} × {HTTP/1.1, HTTP/2} against a server of the real contract. */
export function protocolSuite(name: string, start: () => Promise<Started>): void {
  describe(`protocols of ${name}`, () => {
    let server: Started;
    beforeAll(async () => {
      server = await start();
      await createClient(RegistrationService, transportOf("connect-json", "http1", server.url)).register({}, { headers: bearer(server) });
    });
    afterAll(() => server.close());

    const gaps = knownGaps();
    for (const protocol of [...rpcProtocols, "rest"] as const) {
      const attempts = protocol === "rest" ? restAttempts : rpcAttempts(protocol);
      for (const version of httpVersions) {
        for (const kind of kinds) {
          const cell = `${protocol} ${version} ${kind}`;
          const reason = gaps.get(cell);
          if (reason === undefined) test(`${cell} works`, () => attempts[kind](server, version));
          else test(`${cell} is impossible: ${reason}`, async () => expect(attempts[kind](server, version)).rejects.toThrow());
        }
      }
    }

    test("every listed gap is a cell of the matrix", () => {
      const cells = [...rpcProtocols, "rest"].flatMap((protocol) =>
        httpVersions.flatMap((version) => kinds.map((kind) => `${protocol} ${version} ${kind}`)),
      );
      expect([...gaps.keys()].filter((gap) => !cells.includes(gap))).toEqual([]);
    });

    test("plain fetch with JSON and no library reads a session list by Connect", async () => {
      const answer = await fetch(`${server.url}/carrel.v1.SessionService/ListSessions`, {
        method: "POST",
        headers: { ...bearer(server), "content-type": "application/json" },
        body: "{}",
      });
      expect(answer.status).toBe(200);
      expect(await answer.json()).toBeTypeOf("object");
    });
  });
}

function bearer(server: Started): Record<string, string> {
  return { authorization: `Bearer ${server.token}` };
}

function rpcAttempts(protocol: RpcProtocol): Record<Kind, Attempt> {
  const timeoutHeader: Record<string, string> = protocol.startsWith("grpc") ? { "grpc-timeout": "150m" } : { "connect-timeout-ms": "150" };
  return {
    async success(server, version) {
      const answer = await createClient(SessionService, transportOf(protocol, version, server.url)).listSessions(
        { limit: 3 },
        { headers: bearer(server) },
      );
      expect(Array.isArray(answer.sessions)).toBe(true);
    },
    async error(server, version) {
      const client = createClient(SessionService, transportOf(protocol, version, server.url));
      const error = await failureOf(client.getSession({ sessionId: nobodysSession }, { headers: bearer(server) }));
      expect(error.code).toBe(Code.NotFound);
      expect(error.findDetails(ErrorInfoSchema)).toMatchObject([{ reason: "NOT_FOUND", domain: "carrel" }]);
    },
    // The header without a client's own timer: the server alone ends the call.
    async deadline(server, version) {
      const client = createClient(ChannelService, transportOf(protocol, version, server.url));
      const error = await failureOf(drain(client.watchSessions({}, { headers: { ...bearer(server), ...timeoutHeader } })));
      expect(error.code).toBe(Code.DeadlineExceeded);
    },
    async stream(server, version) {
      const client = createClient(ChannelService, transportOf(protocol, version, server.url));
      const leave = new AbortController();
      let synced = 0;
      for await (const { item } of client.watchSessions({}, { headers: bearer(server), signal: leave.signal })) {
        if (item.case !== "synced") continue;
        synced++;
        break;
      }
      leave.abort();
      expect(synced).toBe(1);
    },
    async get(server, version) {
      if (protocol.startsWith("grpc")) return grpcByGet(protocol, server, version);
      const client = createClient(SessionService, transportOf(protocol, version, server.url, true));
      let method = "";
      const answer = await client.listSessions(
        { limit: 2 },
        { headers: bearer(server), onHeader: (header) => (method = header.get("content-type") ?? "") },
      );
      expect(answer.$typeName).toBe("carrel.v1.ListSessionsResponse");
      expect(method).toBe(protocol === "connect-json" ? "application/json" : "application/proto");
    },
  };
}

async function grpcByGet(protocol: RpcProtocol, server: Started, version: HttpVersion): Promise<void> {
  const answer = await plainRequest(version, `${server.url}/carrel.v1.SessionService/ListSessions`, {
    headers: { ...bearer(server), "content-type": `application/${protocol}+proto` },
  });
  expect(answer.status).toBe(200);
}

const restAttempts: Record<Kind, Attempt> = {
  async success(server, version) {
    const answer = await plainRequest(version, `${server.url}/v1/sessions?limit=3`, { headers: bearer(server) });
    expect(answer.status).toBe(200);
    expect(JSON.parse(answer.text)).toMatchObject({ sessions: expect.any(Array) as unknown, next_cursor: expect.any(String) as unknown });
  },
  async error(server, version) {
    const answer = await plainRequest(version, `${server.url}/v1/sessions/${nobodysSession}`, { headers: bearer(server) });
    expect(answer.status).toBe(404);
    expect(JSON.parse(answer.text)).toEqual({ error: "not_found", message: "session not found", details: { resource: "session" } });
  },
  async deadline(server, version) {
    const answer = await plainRequest(version, `${server.url}/v1/sessions`, { headers: { ...bearer(server), "connect-timeout-ms": "0" } });
    expect(answer.status).toBe(504);
    expect(wordOf(answer)).toBe("deadline_exceeded");
  },
  async stream(server, version) {
    const answer = await plainRequest(version, `${server.url}/v1/sessions:watch`, { headers: bearer(server) });
    expect(answer.status).toBe(200);
  },
  async get(server, version) {
    const answer = await plainRequest(version, `${server.url}/v1/sessions`, { method: "HEAD", headers: bearer(server) });
    expect([answer.status, answer.text]).toEqual([200, ""]);
    expect(Number(answer.headers["content-length"])).toBeGreaterThan(0);
  },
};

function wordOf(answer: PlainAnswer): unknown {
  return (JSON.parse(answer.text) as { error?: unknown }).error;
}

async function failureOf(call: Promise<unknown>): Promise<ConnectError> {
  try {
    await call;
  } catch (error) {
    return ConnectError.from(error);
  }
  throw new Error("the call succeeded");
}

async function drain(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream);
}

function knownGaps(): Map<string, string> {
  const lines = readFileSync(new URL("known-gaps.txt", import.meta.url), "utf8").split("\n");
  return new Map(
    lines
      .filter((line) => line !== "" && !line.startsWith("#"))
      .map((line) => {
        const [protocol, version, kind, ...reason] = line.split(/\s+/);
        return [`${protocol} ${version} ${kind}`, reason.join(" ")];
      }),
  );
}
