import { create, isFieldSet } from "@bufbuild/protobuf";
import type { FieldMask } from "@bufbuild/protobuf/wkt";
import { FieldPathElementSchema, ViolationsSchema } from "../../gen/buf/validate/validate_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { type Profile, ProfileSchema } from "../../gen/carrel/v1/profile_pb.ts";
import { PermissionMode, PermissionModeSchema } from "../../gen/carrel/v1/session_pb.ts";
import { refusal } from "../errors.ts";
import type { PermissionModeWord } from "../journal/session-view.ts";
import { wordOf } from "../words.ts";
import { isRefusedName, refusedNameMessage } from "./environment-names.ts";
import { readMcpServer } from "./mcp-rules.ts";
import { mergeSecrets, type Note } from "./secrets.ts";
import type { McpServerSettings, ProfileSettings } from "./settings.ts";

const patternBytes = 65_536;
const sealedBytes = 131_072;

/** Whether a text is in the grammar of tool patterns. */
export type IsPattern = (text: string) => boolean;

type Change = { before: ProfileSettings; options: Profile; isPattern: IsPattern; note: Note };
type Setter = (change: Change) => Partial<ProfileSettings>;

/** The options, by their names in the contract. */
const setters: Readonly<Record<string, Setter>> = {
  allowed_tools: (change) => ({ allowedTools: readPatterns("allowed_tools", change.options.allowedTools, change) }),
  denied_tools: (change) => ({ deniedTools: readPatterns("denied_tools", change.options.deniedTools, change) }),
  permission_mode: ({ options }) => ({ permissionMode: modeWord(options.permissionMode) }),
  model: ({ options }) => ({ model: options.model }),
  max_turns: ({ options }) => ({ maxTurns: options.maxTurns ?? null }),
  max_budget_usd: ({ options }) => ({
    maxBudgetMicros: options.maxBudgetUsd === undefined ? null : Math.round(options.maxBudgetUsd * 1e6),
  }),
  one_shot: ({ options }) => ({ oneShot: options.oneShot }),
  ttl_seconds: ({ options }) => ({ ttlSeconds: options.ttlSeconds ?? null }),
  environment: (change) => ({ environment: readEnvironment(change) }),
  mcp_servers: (change) => ({ mcpServers: readMcpServers(change) }),
  allowed_hosts: ({ options }) => ({ allowedHosts: [...new Set(options.allowedHosts.map((host) => host.toLowerCase()))] }),
};

/** Every option of a profile, by its name in the contract. */
export const optionFields: ReadonlySet<string> = new Set(Object.keys(setters));

/** Set by the server alone. A mask may name them, so that what was read can be sent back. */
const outputOnly: ReadonlySet<string> = new Set(["id", "created_at", "updated_at"]);

/** The fields an update is about. Throws INVALID_ARGUMENT for a path that is no field of a profile. */
export function changedFields(profile: Profile, mask: FieldMask | undefined): ReadonlySet<string> {
  const known = ProfileSchema.fields;
  const paths = mask ? mask.paths : known.filter((field) => isFieldSet(profile, field)).map((field) => field.name);
  refuseProblems(
    paths
      .filter((path) => !known.some((field) => field.name === path))
      .map((path) => ({ field: "update_mask", message: `"${path.slice(0, 100)}" is not a field of Profile` })),
  );
  return new Set(paths.filter((path) => !outputOnly.has(path)));
}

/**
 * `before` with the named options as `options` has them; names that are no options are left to the caller. Throws
 * INVALID_ARGUMENT with everything that is wrong. `options` has passed the rules of the contract.
 */
export function changeSettings(
  before: ProfileSettings,
  options: Profile,
  fields: ReadonlySet<string>,
  isPattern: IsPattern,
): ProfileSettings {
  const problems: Problem[] = [];
  const note: Note = (field, message) => void problems.push({ field, message });
  const after = { ...before };
  for (const field of fields) Object.assign(after, setters[field]?.({ before, options, isPattern, note }));
  checkSizes(after, fields, note);
  refuseProblems(problems);
  return after;
}

function modeWord(mode: PermissionMode): PermissionModeWord {
  return wordOf(PermissionModeSchema, mode === PermissionMode.UNSPECIFIED ? PermissionMode.ACCEPT_EDITS : mode) as PermissionModeWord;
}

/** A pattern outside the grammar would never match, so a misspelt denial would deny nothing. */
function readPatterns(field: string, patterns: string[], { isPattern, note }: Change): string[] {
  patterns.forEach((pattern, index) => {
    if (!isPattern(pattern))
      note(`${field}[${index}]`, `"${pattern}" is not a tool pattern; use Name, Bash(prefix:*) or mcp__server__tool`);
  });
  return patterns;
}

function readEnvironment({ before, options, note }: Change): Record<string, string> {
  for (const name of Object.keys(options.environment).filter(isRefusedName)) {
    note(`environment.${name}`, refusedNameMessage);
  }
  return mergeSecrets(options.environment, before.environment);
}

function readMcpServers({ before, options, note }: Change): Record<string, McpServerSettings> {
  return Object.fromEntries(
    Object.entries(options.mcpServers).map(([name, server]) => {
      const stored = Object.hasOwn(before.mcpServers, name) ? before.mcpServers[name] : undefined;
      return [name, readMcpServer(name, server, stored, note)];
    }),
  );
}

/** What the contract bounds one by one may still be too much together, for an agent's environment or for one answer. */
function checkSizes(settings: ProfileSettings, fields: ReadonlySet<string>, note: Note): void {
  const measure = (field: string, value: object, limit: number): void => {
    const bytes = Buffer.byteLength(JSON.stringify(value));
    if (fields.has(field) && bytes > limit) note(field, `${bytes} bytes together, at most ${limit} are allowed`);
  };
  const patterns = [...settings.allowedTools, ...settings.deniedTools];
  measure(fields.has("allowed_tools") ? "allowed_tools" : "denied_tools", patterns, patternBytes);
  measure("environment", settings.environment, sealedBytes);
  measure("mcp_servers", settings.mcpServers, sealedBytes);
}

export type Problem = { field: string; message: string };

/** Throws one INVALID_ARGUMENT that names them all; nothing when there are none. */
export function refuseProblems(problems: readonly Problem[]): void {
  if (problems.length === 0) return;
  const shown = problems.slice(0, 20);
  const text = shown.map(({ field, message }) => `${field}: ${message}`).join("; ");
  throw refusal(
    ErrorReason.INVALID_ARGUMENT,
    text,
    { fields: shown.map(({ field }) => field).join(", ") },
    {
      desc: ViolationsSchema,
      value: {
        violations: problems.map(({ field, message }) => ({
          field: { elements: [create(FieldPathElementSchema, { fieldName: field })] },
          message,
        })),
      },
    },
  );
}
