import type { Message } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { type CreateProfileRequest, ProfileService, type UpdateProfileRequest } from "../../../gen/carrel/v1/profile_service_pb.ts";
import { PermissionMode } from "../../../gen/carrel/v1/session_pb.ts";
import { createOpenApi } from "../../../server/http/openapi.ts";
import { createBinder } from "../../../server/http/rest/bind.ts";
import { createMessageReaders } from "../../../server/http/rest/reader.ts";
import { bindingsOf } from "../../../server/http/rest/routes.ts";

const id = `prf_${"1".repeat(32)}`;

function bind(name: "createProfile" | "updateProfile", body: object | string, query = ""): Message {
  const method = ProfileService.method[name];
  const values = name === "updateProfile" ? [id] : [];
  return createBinder(
    method,
    bindingsOf(method)[0]!,
    createMessageReaders(),
  )({ values, query, body: Buffer.from(typeof body === "string" ? body : JSON.stringify(body)) });
}

const update = (body: object | string) => bind("updateProfile", body) as UpdateProfileRequest;

describe("the body of a profile", () => {
  it("is flat, with the fields of the request beside those of the profile", () => {
    const request = bind("createProfile", {
      name: "a",
      permission_mode: "plan",
      environment: { A: "b" },
      request_id: "r",
    }) as CreateProfileRequest;
    expect(request).toMatchObject({ requestId: "r", profile: { name: "a", permissionMode: PermissionMode.PLAN, environment: { A: "b" } } });
    expect((bind("createProfile", { idempotent_key: "k" }) as CreateProfileRequest).requestId).toBe("k");
  });

  it("says by its keys what an update is about, also where a value is empty or null", () => {
    const request = update({ name: "a", max_turns: null, allowed_tools: [], one_shot: false, profile_id: id });
    expect(request.updateMask?.paths).toEqual(["name", "max_turns", "allowed_tools", "one_shot"]);
    expect(request.profileId).toBe(id);
    expect(request.profile?.maxTurns).toBeUndefined();
  });

  it("is about nothing when it is empty or absent", () => {
    for (const body of ["", "{}"]) expect(update(body)).toMatchObject({ profile: { name: "" }, updateMask: { paths: [] } });
  });

  it.each([
    [{ nmae: "x", profile: { name: "x" } }, "unknown fields nmae, profile"],
    [{ update_mask: "name" }, "unknown field update_mask"],
    [{ mcp_servers: { a: { typ: "stdio" } } }, "unknown field mcp_servers.a.typ"],
    [{ provider: "openai", plugins: ["x"], task_budget_tokens: 5 }, "not supported by this server: provider, plugins, task_budget_tokens"],
    [{ max_turns: "5" }, "max_turns: expected an integer"],
    [{ profile_id: `prf_${"2".repeat(32)}` }, "profile_id: differs from the path"],
    [{ request_id: "x" }, "unknown field request_id"],
  ])("is refused as %j", (body, message) => {
    expect(() => update(body)).toThrow(message);
  });

  it("may say what the hosted product's default says", () => {
    expect(update({ provider: "anthropic", plugins: [], task_budget_tokens: null }).updateMask?.paths).toEqual([]);
  });

  it("has no place in the query", () => {
    expect(() => bind("createProfile", {}, "name=x")).toThrow("unknown field name");
  });

  it("is described as it is served", () => {
    const { paths } = createOpenApi([ProfileService], undefined) as {
      paths: Record<string, Record<string, { requestBody?: { content: { "application/json": { schema: { properties: object } } } } }>>;
    };
    const keysOf = (path: string, verb: string) =>
      Object.keys(paths[path]?.[verb]?.requestBody?.content["application/json"].schema.properties ?? {});
    expect(keysOf("/v1/profiles", "post")).toEqual(expect.arrayContaining(["name", "allowed_hosts", "mcp_servers", "request_id"]));
    expect(keysOf("/v1/profiles/{profile_id}", "put")).not.toContain("update_mask");
    expect(keysOf("/v1/profiles/{profile_id}", "put")).not.toContain("profile_id");
  });
});
