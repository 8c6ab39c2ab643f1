import { describe, expect, test } from "vitest";
import { RunnerService } from "../../../gen/carrel/runner/v1/runner_service_pb.ts";
import { ChannelService } from "../../../gen/carrel/v1/channel_service_pb.ts";
import { CredentialService } from "../../../gen/carrel/v1/credential_service_pb.ts";
import { RegistrationService } from "../../../gen/carrel/v1/registration_service_pb.ts";
import { SessionService } from "../../../gen/carrel/v1/session_service_pb.ts";
import { Health } from "../../../gen/grpc/health/v1/health_pb.ts";
import { assertAuthorized, authorizationOf, filesOf } from "../../../server/http/descriptors.ts";
import { targetOf } from "../../../server/http/message.ts";
import { createOpenApi } from "../../../server/http/openapi.ts";
import { bindingsOf, createRoutes } from "../../../server/http/rest/routes.ts";

const contract = [RegistrationService, CredentialService, SessionService, ChannelService];

function binding(template: string, verb = "GET") {
  return { template, verb, variables: [], hasBody: false };
}

describe("routes", () => {
  test("a literal segment wins over a variable, and the search comes back from a dead end", () => {
    const routes = createRoutes<string>();
    routes.add(binding("/v1/{a}/x"), "variable");
    routes.add(binding("/v1/fixed/y"), "literal");
    expect(routes.find("/v1/fixed/y")).toMatchObject({ values: [] });
    expect(routes.find("/v1/fixed/x")).toMatchObject({ values: ["fixed"] });
    expect(routes.find("/v1/fixed/z")).toBeUndefined();
  });

  test("an empty segment is no value, and segments stay as they were written", () => {
    const routes = createRoutes<string>();
    routes.add(binding("/v1/{a}"), "one");
    expect(routes.find("/v1/")).toBeUndefined();
    expect(routes.find("/v1/a%2Fb")).toMatchObject({ values: ["a%2Fb"] });
  });

  test("two methods on one verb and path are a fault of the contract", () => {
    const routes = createRoutes<string>();
    routes.add(binding("/v1/{a}"), "one");
    expect(() => routes.add(binding("/v1/{b}"), "two")).toThrow("bound twice");
  });

  test("forms of a template that are not served are refused", () => {
    for (const template of ["v1", "/v1/{a=**}", "/v1/{a}:watch", "/v1//x", "/v1/*"])
      expect(() => createRoutes().add(binding(template), 1)).toThrow("not a path template");
  });

  test("a method says its verb, template and variables", () => {
    expect(bindingsOf(ChannelService.method.answerApproval)).toEqual([
      {
        verb: "POST",
        template: "/v1/sessions/{session_id}/approvals/{tool_use_id}",
        variables: ["session_id", "tool_use_id"],
        hasBody: true,
      },
    ]);
    expect(bindingsOf(ChannelService.method.watchEvents)).toEqual([]);
  });
});

test("a request target is split in every form that HTTP has", () => {
  expect(targetOf("/a?b=c?d")).toEqual({ path: "/a", query: "b=c?d" });
  expect(targetOf("http://host:1/a?b")).toEqual({ path: "/a", query: "b" });
  for (const url of [undefined, "", "*", "http://host", "a/b"]) expect(targetOf(url)).toBeUndefined();
});

describe("descriptors", () => {
  test("every method of the contract says who may call it", () => {
    expect(() => assertAuthorized([...contract, RunnerService])).not.toThrow();
    expect(authorizationOf(RegistrationService.method.register).unregistered).toBe(true);
  });

  test("a service without the option is refused by the names of its methods", () => {
    expect(() => assertAuthorized([SessionService, Health])).toThrow(/grpc\.health\.v1\.Health\/Check[^]*grpc\.health\.v1\.Health\/Watch/);
  });

  test("files come once each, imports before importers", () => {
    const names = filesOf(contract).map((file) => file.name);
    expect(new Set(names).size).toBe(names.length);
    for (const file of filesOf(contract)) {
      for (const imported of file.dependencies) expect(names.indexOf(imported.name)).toBeLessThan(names.indexOf(file.name));
    }
  });
});

describe("the OpenAPI document", () => {
  const document = createOpenApi(contract, "https://carrel.example") as unknown as {
    paths: Record<
      string,
      Record<string, { parameters: { name: string; in: string }[]; responses: Record<string, unknown>; requestBody?: unknown }>
    >;
    components: { schemas: Record<string, { properties?: Record<string, unknown> }> };
  };

  test("every method with an http option is in it, with its success status", () => {
    const bound = contract.flatMap((service) => service.methods).flatMap(bindingsOf);
    for (const { template, verb } of bound) expect(document.paths[template]).toHaveProperty(verb.toLowerCase());
    expect(Object.keys(document.paths["/v1/sessions"]!.post!.responses)).toEqual(["201", "default"]);
  });

  test("path variables and query fields are parameters, the rest is the body", () => {
    expect(document.paths["/v1/sessions"]!.get!.parameters.map((one) => `${one.in} ${one.name}`)).toEqual([
      "query status",
      "query limit",
      "query cursor",
    ]);
    const patch = document.paths["/v1/sessions/{session_id}"]!.patch!;
    expect(patch.parameters.map((one) => `${one.in} ${one.name}`)).toEqual(["path session_id"]);
    expect(patch.requestBody).toMatchObject({
      content: { "application/json": { schema: { additionalProperties: false, properties: { name: { type: "string" } } } } },
    });
  });

  test("enums are the product's words, and every reference leads somewhere", () => {
    expect(document.components.schemas.Session?.properties?.permission_mode).toEqual({
      type: ["string", "null"],
      enum: ["acceptEdits", "plan", "bypassPermissions", null],
    });
    for (const [, name] of JSON.stringify(document).matchAll(/#\/components\/schemas\/(\w+)/g))
      expect(document.components.schemas).toHaveProperty(name!);
  });
});
