import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { create, type DescMethodServerStreaming, type DescMethodUnary, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Client, credentials, Metadata, makeGenericClientConstructor, type ServiceError, status } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ChannelService } from "../../gen/carrel/v1/channel_service_pb.ts";
import { SessionService } from "../../gen/carrel/v1/session_service_pb.ts";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../gen/google/rpc/status_pb.ts";
import { Health, HealthCheckRequestSchema, HealthCheckResponse_ServingStatus } from "../../gen/grpc/health/v1/health_pb.ts";
import { buf } from "../../setup/buf.ts";
import { knownId, otherId, startStub, stubToken } from "../contract/protocols-stub.ts";

const run = promisify(execFile);

let server: Awaited<ReturnType<typeof startStub>>;
let client: Client;
beforeAll(async () => {
  server = await startStub();
  client = new (makeGenericClientConstructor({}, "stub"))(`127.0.0.1:${server.port}`, credentials.createInsecure());
});
afterAll(async () => {
  client.close();
  await server.close();
});

function metadata(): Metadata {
  const found = new Metadata();
  found.set("authorization", `Bearer ${stubToken}`);
  return found;
}

function pathOf(method: DescMethodUnary | DescMethodServerStreaming): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function unary(method: DescMethodUnary, input: Record<string, unknown>): Promise<unknown> {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      pathOf(method),
      (value: Uint8Array) => Buffer.from(value),
      (bytes) => fromBinary(method.output, bytes),
      toBinary(method.input, create(method.input, input)),
      metadata(),
      (error, value) => (error ? reject(error) : resolve(value)),
    );
  });
}

describe("a gRPC client that shares no code with the server", () => {
  test("reads a session", async () => {
    expect(await unary(SessionService.method.getSession, { sessionId: knownId })).toMatchObject({
      session: { id: knownId, name: "first" },
    });
  });

  test("reads code, message and ErrorInfo of a refusal", async () => {
    const error = (await unary(SessionService.method.getSession, { sessionId: otherId }).catch(
      (reason: unknown) => reason,
    )) as ServiceError;
    expect([error.code, error.details]).toEqual([status.NOT_FOUND, "session not found"]);
    const [packed] = error.metadata.get("grpc-status-details-bin");
    const [detail] = fromBinary(StatusSchema, packed as Buffer).details;
    expect(fromBinary(ErrorInfoSchema, detail!.value)).toMatchObject({
      reason: "NOT_FOUND",
      domain: "carrel",
      metadata: { resource: "session" },
    });
  });

  test("follows a stream to its end", async () => {
    const method = ChannelService.method.watchEvents;
    const items: string[] = [];
    const call = client.makeServerStreamRequest(
      pathOf(method),
      (value: Uint8Array) => Buffer.from(value),
      (bytes) => fromBinary(method.output, bytes),
      toBinary(method.input, create(method.input, { sessionId: knownId })),
      metadata(),
    );
    for await (const item of call) items.push(String((item as { item: { case: string } }).item.case));
    expect(items).toEqual(["event", "event", "event", "synced"]);
  });

  test("asks the health service", async () => {
    const ask = (service: string) => unary(Health.method.check, create(HealthCheckRequestSchema, { service }));
    expect(await ask("")).toMatchObject({ status: HealthCheckResponse_ServingStatus.SERVING });
    expect(await ask("carrel.v1.SessionService")).toMatchObject({ status: HealthCheckResponse_ServingStatus.SERVING });
    await expect(ask("no.such.Service")).rejects.toMatchObject({ code: status.NOT_FOUND });
  });
});

describe("buf curl without any proto file", () => {
  const curl = async (flags: string[], method: string, data: object): Promise<unknown[]> => {
    const all = [
      "curl",
      "--http2-prior-knowledge",
      ...flags,
      "--reflect",
      "-H",
      `authorization: Bearer ${stubToken}`,
      "-d",
      JSON.stringify(data),
      `${server.url}/${method}`,
    ];
    const { stdout } = await run(buf, all, { env: { PATH: process.env.PATH, HOME: "/nonexistent" } });
    return stdout
      .trim()
      .split(/\n(?=\{)/)
      .map((text) => JSON.parse(text) as unknown);
  };

  for (const version of ["grpc-v1", "grpc-v1alpha"]) {
    test(`calls by reflection ${version}`, async () => {
      const answers = await curl(["--protocol", "grpc", "--reflect-protocol", version], "carrel.v1.SessionService/GetSession", {
        sessionId: knownId,
      });
      expect(answers).toMatchObject([{ session: { id: knownId } }]);
    });
  }

  for (const protocol of ["grpc", "grpcweb", "connect"]) {
    test(`follows a stream over ${protocol}`, async () => {
      const answers = await curl(["--protocol", protocol], "carrel.v1.ChannelService/WatchEvents", { sessionId: knownId, afterSeq: 1 });
      expect(answers).toMatchObject([{ event: { seq: 2 } }, { event: { seq: 3 } }, { synced: { lastSeq: 3 } }]);
    });
  }

  test("lists every service with its methods", async () => {
    const { stdout } = await run(buf, ["curl", "--http2-prior-knowledge", "--list-methods", server.url]);
    expect(stdout).toContain("carrel.v1.SessionService/GetSession");
    expect(stdout).toContain("grpc.health.v1.Health/Check");
  });
});

describe("what the port says of itself", () => {
  test("a probe of liveness is answered, and one of readiness follows the check it was given", async () => {
    const tired = await startStub({ ready: async () => false });
    expect((await fetch(`${tired.url}/healthz`)).status).toBe(200);
    expect((await fetch(`${tired.url}/readyz`)).status).toBe(503);
    expect((await fetch(`${server.url}/readyz`)).status).toBe(200);
    await tired.close();
  });

  test("the OpenAPI document is public and names every REST path of the contract", async () => {
    const document = (await (await fetch(`${server.url}/openapi`)).json()) as { openapi: string; paths: Record<string, object> };
    expect(document.openapi).toBe("3.1.0");
    expect(Object.keys(document.paths["/v1/sessions/{session_id}"]!)).toEqual(["get", "patch", "delete"]);
    expect(document.paths).toHaveProperty(["/v1/auth/claude/apikey", "post"]);
  });
});
