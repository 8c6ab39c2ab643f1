import type { Kysely } from "kysely";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Database } from "../db/database.ts";
import { notFound, refusal } from "../errors.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { settingsOf } from "./message.ts";
import { provisionIfNeeded } from "./provision.ts";
import type { ProfileSettings } from "./settings.ts";
import { findDefaultProfile, findProfile, findProfileByName } from "./store.ts";

/** Which profile is meant: by id, by name, or with both empty the default. */
export type ProfileReference = { profileId: string; profileName: string };

/** A profile for a session to copy, with the secrets in clear. */
export type OpenedProfile = { id: string; name: string; settings: ProfileSettings };

/** Rejects with NOT_FOUND, with INVALID_ARGUMENT when both an id and a name are given, and with what the vault throws. */
export type OpenProfile = (userId: string, reference: ProfileReference) => Promise<OpenedProfile>;

export function createProfileOpener({
  db,
  userVault,
}: {
  db: Kysely<Database>;
  userVault(userId: string): Promise<UserVault>;
}): OpenProfile {
  return async (userId, { profileId, profileName }) => {
    if (profileId && profileName)
      throw refusal(ErrorReason.INVALID_ARGUMENT, "name a profile by profile_id or by profile_name, not by both");
    await provisionIfNeeded(db, userId);
    const row = await (profileId
      ? findProfile(db, userId, profileId)
      : profileName
        ? findProfileByName(db, userId, profileName.trim())
        : findDefaultProfile(db, userId));
    if (!row) throw notFound("profile");
    return { id: row.id, name: row.name, settings: settingsOf(row, await userVault(userId)) };
  };
}
