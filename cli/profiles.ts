import type { Profile } from "../gen/carrel/v1/profile_pb.ts";
import { ProfileSchema } from "../gen/carrel/v1/profile_pb.ts";
import { PermissionModeSchema } from "../gen/carrel/v1/session_pb.ts";
import { type Carrel, toProductJson, wordOf } from "../sdk/node.ts";
import { registered } from "./connection.ts";
import { CliFailure } from "./failures.ts";
import type { Output } from "./output.ts";
import { printFacts, printTable, timeOf } from "./output-table.ts";

const profileId = /^prf_[0-9a-f]{32}$/;

/** What a request needs to start from this profile, which the person named by id or by name. */
export function profileSelector(text: string | undefined): { profileId?: string; profileName?: string } {
  if (text === undefined) return {};
  return profileId.test(text) ? { profileId: text } : { profileName: text };
}

export async function listProfiles(carrel: Carrel): Promise<Profile[]> {
  return (await registered(carrel, () => carrel.profiles.listProfiles({}))).profiles;
}

/** The id of the profile that is named by id or by name; of the default one when none is. */
export async function resolveProfile(carrel: Carrel, text: string | undefined): Promise<string> {
  if (text !== undefined && profileId.test(text)) return text;
  const profiles = await listProfiles(carrel);
  const found = profiles.find(({ name, isDefault }) => (text === undefined ? isDefault : name === text));
  if (!found) throw new CliFailure(`no profile is called "${text ?? ""}"`, ["see which there are: carrel profile list"]);
  return found.id;
}

export function printProfiles(output: Output, profiles: readonly Profile[]): void {
  if (output.json) return output.document({ profiles: profiles.map((profile) => toProductJson(ProfileSchema, profile)) });
  if (output.quiet) return profiles.forEach(({ id }) => output.line(id));
  const rows = profiles.map((profile) => [
    profile.id,
    profile.isDefault ? "yes" : "",
    wordOf(PermissionModeSchema, profile.permissionMode),
    timeOf(profile.updatedAt),
    profile.name,
  ]);
  printTable(output, ["ID", "DEFAULT", "MODE", "CHANGED", "NAME"], rows);
}

export function printProfile(output: Output, profile: Profile): void {
  if (output.json) return output.document({ profile: toProductJson(ProfileSchema, profile) });
  printFacts(output, [
    ["id", profile.id],
    ["name", profile.name],
    ["description", profile.description],
    ["default", profile.isDefault ? "yes" : ""],
    ["model", profile.model || "the provider's default"],
    ["permission mode", wordOf(PermissionModeSchema, profile.permissionMode)],
    ["allowed tools", profile.allowedTools.join(", ")],
    ["denied tools", profile.deniedTools.join(", ")],
    ["allowed hosts", profile.allowedHosts.join(", ")],
    ["max turns", String(profile.maxTurns ?? "")],
    ["max budget", profile.maxBudgetUsd === undefined ? "" : `$${profile.maxBudgetUsd}`],
    ["one shot", profile.oneShot ? "yes" : ""],
    ["lifetime", profile.ttlSeconds === undefined ? "" : `${profile.ttlSeconds} s`],
    ["environment", Object.keys(profile.environment).join(", ")],
    ["tool servers", Object.keys(profile.mcpServers).join(", ")],
    ["created", timeOf(profile.createdAt)],
    ["changed", timeOf(profile.updatedAt)],
  ]);
}
