import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { McpTransport } from "../../../gen/carrel/v1/mcp_server_pb.ts";
import { ProfileSchema } from "../../../gen/carrel/v1/profile_pb.ts";
import { PermissionMode } from "../../../gen/carrel/v1/session_pb.ts";
import { fromProductJson, toProductJson } from "../../../sdk/node.ts";

const profile = create(ProfileSchema, {
  name: "Builder",
  permissionMode: PermissionMode.PLAN,
  allowedTools: ["Read"],
  maxTurns: 3,
  environment: { A: "" },
  mcpServers: { notes: { type: McpTransport.HTTP, url: "https://notes.example.com", headers: { authorization: "" } } },
  createdAt: { seconds: 1_700_000_000n },
});

describe("the product's JSON", () => {
  it("is read back as what was written", () => {
    expect(fromProductJson(ProfileSchema, toProductJson(ProfileSchema, profile))).toEqual(profile);
  });

  it("has null for what is not set, words for enums, and numbers for numbers", () => {
    expect(fromProductJson(ProfileSchema, { max_turns: null, permission_mode: "acceptEdits", max_budget_usd: 0.5 })).toEqual(
      create(ProfileSchema, { permissionMode: PermissionMode.ACCEPT_EDITS, maxBudgetUsd: 0.5 }),
    );
  });

  it.each([
    ["an unknown field", { denied_tool: [] }, /denied_tool/],
    ["an unknown field inside", { mcp_servers: { a: { typ: "http" } } }, /typ/],
    ["a word that is none", { permission_mode: "all" }, /permission_mode: "all" is none of acceptEdits, plan/],
    ["a word that is none inside", { mcp_servers: { a: { type: "ftp" } } }, /type: "ftp" is none of/],
    ["a list that is none", { allowed_tools: "Read" }, /allowed_tools/],
    ["no object", ["Read"], /Profile/],
  ])("with %s is refused by name", (_name, json, message) => {
    expect(() => fromProductJson(ProfileSchema, json)).toThrow(message);
  });
});
