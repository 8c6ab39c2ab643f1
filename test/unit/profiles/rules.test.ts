import { create, type MessageInitShape } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { McpTransport } from "../../../gen/carrel/v1/mcp_server_pb.ts";
import { ProfileSchema } from "../../../gen/carrel/v1/profile_pb.ts";
import { PermissionMode } from "../../../gen/carrel/v1/session_pb.ts";
import { parsePattern } from "../../../server/channel/permissions/pattern.ts";
import { optionsMessage } from "../../../server/profiles/message.ts";
import { changedFields, changeSettings, optionFields } from "../../../server/profiles/rules.ts";
import { type ProfileSettings, plainSettings, starterProfiles } from "../../../server/profiles/settings.ts";

type Options = MessageInitShape<typeof ProfileSchema>;
type Server = NonNullable<Options["mcpServers"]>[string];

const isPattern = (text: string) => parsePattern(text) !== undefined;
const stdio = (fields: object = {}) => ({ type: McpTransport.STDIO, command: "docs-server", ...fields }) as Server;
const http = (fields: object = {}) => ({ type: McpTransport.HTTP, url: "https://mcp.example.com/v1", ...fields }) as Server;
const servers = (server: Server): Options => ({ mcpServers: { docs: server } });

function change(options: Options, before: ProfileSettings = plainSettings): ProfileSettings {
  const profile = create(ProfileSchema, options);
  return changeSettings(before, profile, changedFields(profile, undefined), isPattern);
}

/** Each message of the refusal, or undefined where there is none. */
function refusalOf(options: Options, before?: ProfileSettings): string | undefined {
  try {
    change(options, before);
    return undefined;
  } catch (error) {
    return (error as { rawMessage: string }).rawMessage;
  }
}

describe("options", () => {
  it("are taken as they are sent, and those not sent stay", () => {
    const settings = change({
      allowedTools: ["Read", "Bash(git log:*)"],
      deniedTools: ["mcp__docs"],
      permissionMode: PermissionMode.PLAN,
      model: "claude-x",
      maxTurns: 7,
      maxBudgetUsd: 0.1 + 0.2,
      oneShot: true,
      ttlSeconds: 86_400,
      environment: { TOKEN: "secret", EMPTY: "" },
      mcpServers: { docs: stdio({ args: ["-v"], env: { KEY: "k" } }), far: http({ headers: { Authorization: "Bearer x" } }) },
      allowedHosts: ["GitHub.com", "github.com", "*.npmjs.org"],
    });
    expect(settings).toEqual({
      allowedTools: ["Read", "Bash(git log:*)"],
      deniedTools: ["mcp__docs"],
      permissionMode: "plan",
      model: "claude-x",
      maxTurns: 7,
      maxBudgetMicros: 300_000,
      oneShot: true,
      ttlSeconds: 86_400,
      environment: { TOKEN: "secret", EMPTY: "" },
      mcpServers: {
        docs: { type: "stdio", command: "docs-server", args: ["-v"], env: { KEY: "k" } },
        far: { type: "http", url: "https://mcp.example.com/v1", headers: { Authorization: "Bearer x" } },
      },
      allowedHosts: ["github.com", "*.npmjs.org"],
    });
    expect(change({ model: "other" }, settings)).toEqual({ ...settings, model: "other" });
  });

  it("sent back as they were read change nothing, whatever they are", () => {
    const name = fc.stringMatching(/^[a-z]{1,8}$/);
    const secrets = fc.dictionary(fc.stringMatching(/^S_[A-Z]{1,8}$/), fc.string());
    const server = fc.oneof(
      fc.record({ type: fc.constant("stdio" as const), command: fc.constant("x"), args: fc.array(fc.string()), env: secrets }),
      fc.record({
        type: fc.constantFrom("http" as const, "sse" as const),
        url: fc.constant("http://h.example/"),
        headers: fc.dictionary(fc.stringMatching(/^x-[a-z]{1,8}$/), fc.constant("v")),
      }),
    );
    fc.assert(
      fc.property(
        fc.record({
          environment: secrets,
          mcpServers: fc.dictionary(name, server),
          maxTurns: fc.option(fc.integer({ min: 1, max: 10_000 })),
          maxBudgetMicros: fc.option(fc.integer({ min: 1, max: 1e11 })),
          permissionMode: fc.constantFrom("acceptEdits" as const, "plan" as const, "bypassPermissions" as const),
        }),
        (some) => {
          const settings = { ...plainSettings, ...some };
          expect(changeSettings(settings, optionsMessage(settings), optionFields, isPattern)).toEqual(settings);
        },
      ),
    );
  });

  it("of the profiles everybody begins with keep their own rules", () => {
    for (const { settings } of starterProfiles)
      expect(changeSettings(settings, optionsMessage(settings), optionFields, isPattern)).toEqual(settings);
    expect(starterProfiles[0].settings.allowedTools).toHaveLength(12);
  });

  it("are cleared by a mask that names them", () => {
    const before = change({ maxTurns: 3, model: "m", environment: { A: "1" }, permissionMode: PermissionMode.PLAN });
    const fields = changedFields(create(ProfileSchema), {
      $typeName: "google.protobuf.FieldMask",
      paths: ["max_turns", "environment", "permission_mode", "id", "updated_at"],
    });
    expect([...fields]).toEqual(["max_turns", "environment", "permission_mode"]);
    expect(changeSettings(before, create(ProfileSchema), fields, isPattern)).toEqual({ ...plainSettings, model: "m" });
  });

  it.each(["nmae", "environment.A", "maxTurns", "*", ""])("are not named by %j", (path) => {
    expect(() => changedFields(create(ProfileSchema), { $typeName: "google.protobuf.FieldMask", paths: [path] })).toThrow(
      `"${path}" is not a field of Profile`,
    );
  });
});

describe("secrets", () => {
  const before = change({
    environment: { KEEP: "old", GONE: "old" },
    mcpServers: { far: http({ headers: { Authorization: "old" } }), near: stdio({ env: { KEY: "old" } }) },
  });

  it("stay under an empty value, change under another, and go with their name", () => {
    expect(change({ environment: { KEEP: "", NEW: "n", BLANK: "" } }, before).environment).toEqual({ KEEP: "old", NEW: "n", BLANK: "" });
    expect(change({ environment: { KEEP: "new" } }, before).environment).toEqual({ KEEP: "new" });
    expect(change({ mcpServers: { near: stdio({ env: { KEY: "", MORE: "" } }) } }, before).mcpServers).toEqual({
      near: { type: "stdio", command: "docs-server", args: [], env: { KEY: "old", MORE: "" } },
    });
  });

  it("are not those of names that every object has", () => {
    expect(change({ environment: { constructor: "", toString: "" } }, before).environment).toEqual({ constructor: "", toString: "" });
    expect(change({ mcpServers: { constructor: stdio() } }, before).mcpServers["constructor"]).toMatchObject({ command: "docs-server" });
  });

  it("of a header stay while the address keeps its origin", () => {
    const moved =
      (url: string, type: McpTransport = McpTransport.HTTP) =>
      () =>
        change({ mcpServers: { far: { type, url, headers: { Authorization: "" } } } }, before).mcpServers.far;
    expect(moved("https://mcp.example.com/v2?x=1", McpTransport.SSE)()).toMatchObject({ type: "sse", headers: { Authorization: "old" } });
    for (const url of ["https://evil.example/v1", "http://mcp.example.com/v1", "https://mcp.example.com:8443/v1"])
      expect(moved(url)).toThrow("mcp_servers.far.headers.Authorization: its value was stored for another address");
  });

  it("of one server are not another's", () => {
    expect(refusalOf({ mcpServers: { other: http({ headers: { Authorization: "" } }) } }, before)).toBe(
      "mcp_servers.other.headers.Authorization: needs a value",
    );
    expect(refusalOf({ mcpServers: { near: http({ headers: { KEY: "" } }) } }, before)).toBe("mcp_servers.near.headers.KEY: needs a value");
  });
});

describe("a refusal names", () => {
  it.each<[string, Options, string]>([
    ["a pattern of the allow list", { allowedTools: ["Read", "Bash(git)"] }, 'allowed_tools[1]: "Bash(git)" is not a tool pattern'],
    ["a pattern of the deny list", { deniedTools: ["Bash(rm:*"] }, 'denied_tools[0]: "Bash(rm:*" is not a tool pattern'],
    ["a dangerous variable", { environment: { LD_PRELOAD: "/x.so", FINE: "1" } }, "environment.LD_PRELOAD: this name is not allowed"],
    [
      "a dangerous variable of a server",
      servers(stdio({ env: { NODE_OPTIONS: "-r x" } })),
      "mcp_servers.docs.env.NODE_OPTIONS: this name is not allowed",
    ],
    ["a server without a type", servers({ command: "x" }), "mcp_servers.docs.type: must be stdio, http or sse"],
    ["stdio without a command", servers(stdio({ command: " " })), "mcp_servers.docs.command: stdio needs a command"],
    ["stdio with an address", servers(stdio({ url: "https://x" })), "mcp_servers.docs.url: does not go with type stdio"],
    ["stdio with headers", servers(stdio({ headers: { A: "b" } })), "mcp_servers.docs.headers: does not go with type stdio"],
    ["http with a command", servers(http({ command: "x" })), "mcp_servers.docs.command: does not go with type http"],
    ["sse with arguments", servers(http({ type: McpTransport.SSE, args: ["x"] })), "mcp_servers.docs.args: does not go with type sse"],
    ["http with an environment", servers(http({ env: { A: "b" } })), "mcp_servers.docs.env: does not go with type http"],
    ["http without an address", servers(http({ url: "" })), "mcp_servers.docs.url: must be an http or https URL"],
    ["an address of a file", servers(http({ url: "file:///etc/passwd" })), "mcp_servers.docs.url: must be an http or https URL"],
    ["an address of another scheme", servers(http({ url: "wss://x.example" })), "mcp_servers.docs.url: must be an http or https URL"],
    [
      "an address with a password",
      servers(http({ url: "https://me:pw@x.example/" })),
      "mcp_servers.docs.url: must not hold a user name or password",
    ],
    [
      "an address with a user name",
      servers(http({ url: "https://me@x.example/" })),
      "mcp_servers.docs.url: must not hold a user name or password",
    ],
    ["an address with a fragment", servers(http({ url: "https://x.example/#a" })), "mcp_servers.docs.url: must not have a fragment"],
    [
      "a header of the connection",
      servers(http({ headers: { "Transfer-Encoding": "chunked" } })),
      "mcp_servers.docs.headers.Transfer-Encoding: this header belongs to the connection",
    ],
    [
      "a header in two spellings",
      servers(http({ headers: { "X-Key": "a", "x-key": "b" } })),
      "mcp_servers.docs.headers.x-key: given twice",
    ],
    ["a header without a value", servers(http({ headers: { "X-Key": "" } })), "mcp_servers.docs.headers.X-Key: needs a value"],
    ["a server that could stand for another's tools", { mcpServers: { git__hub: stdio() } }, "mcp_servers.git__hub: a name has"],
    ["a server whose name ends in _", { mcpServers: { git_: stdio() } }, "mcp_servers.git_: a name has"],
    [
      "too large an environment",
      { environment: Object.fromEntries(Array.from({ length: 5 }, (_, index) => [`V${index}`, "x".repeat(30_000)])) },
      "at most 131072 are allowed",
    ],
    ["too many bytes of patterns", { deniedTools: Array.from({ length: 200 }, () => `Bash(${"x".repeat(450)}:*)`) }, "denied_tools: "],
    [
      "too large servers",
      {
        mcpServers: Object.fromEntries(
          Array.from({ length: 5 }, (_, index) => [`s${index}`, stdio({ args: Array.from({ length: 10 }, () => "x".repeat(3_000)) })]),
        ),
      },
      "mcp_servers: ",
    ],
  ])("%s", (_, options, expected) => {
    expect(refusalOf(options)).toContain(expected);
  });

  it("everything that is wrong at once, and no values", () => {
    const text = refusalOf({
      allowedTools: ["?"],
      environment: { PATH: "planted-secret" },
      mcpServers: { docs: http({ url: "ftp://planted-secret" }) },
    });
    expect(text).toMatch(/allowed_tools\[0\].*environment\.PATH.*mcp_servers\.docs\.url/);
    expect(text).not.toContain("planted-secret");
  });
});
