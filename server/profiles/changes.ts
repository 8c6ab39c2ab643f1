import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import type { Kysely, Transaction } from "kysely";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Profile } from "../../gen/carrel/v1/profile_pb.ts";
import type { UpdateProfileRequest } from "../../gen/carrel/v1/profile_service_pb.ts";
import type { Database } from "../db/database.ts";
import { notFound, refusal } from "../errors.ts";
import { newId } from "../ids.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { profileMessage, settingsOf } from "./message.ts";
import { provisionDefaults } from "./provision.ts";
import { changedFields, changeSettings, type IsPattern, refuseProblems } from "./rules.ts";
import { sealSecrets } from "./seal.ts";
import type { Draft } from "./settings.ts";
import {
  countProfiles,
  deleteProfile,
  findProfile,
  findProfileByName,
  insertProfile,
  lockOwner,
  type ProfileRow,
  setDefault,
  updateProfile,
} from "./store.ts";

export type ProfileChangeDeps = {
  db: Kysely<Database>;
  userVault(userId: string): Promise<UserVault>;
  once: typeof import("../sessions/request-ids.ts").once;
  /** A display name after trimming; throws NAME_REQUIRED or NAME_TOO_LONG. */
  checkedName(name: string, limit: number): string;
  isPattern: IsPattern;
  /** Profiles that one person may have. */
  limit: number;
};

/** Longest name, in characters. */
export const nameLimit = 100;

type Repeated<Request extends DescMessage, Response extends DescMessage> = {
  method: string;
  schema: Request;
  request: MessageShape<Request> & { requestId: string };
  response: Response;
};

/** Adds a profile, once for each request id, and answers with the message that `answer` makes of it. */
export async function addProfile<Request extends DescMessage, Response extends DescMessage>(
  deps: ProfileChangeDeps,
  ownerId: string,
  { method, schema, request, response }: Repeated<Request, Response>,
  { draft, isDefault }: { draft: Draft; isDefault: boolean },
  answer: (profile: Profile) => MessageShape<Response>,
): Promise<MessageShape<Response>> {
  const vault = await deps.userVault(ownerId);
  const call = { ownerId, method, requestId: request.requestId, vault, request: { schema, message: request }, response };
  return deps.db.transaction().execute((tx) =>
    deps.once(tx, call, async () => {
      // Also what takes the lock under which the profiles are counted.
      await provisionDefaults(tx, ownerId);
      await admit(tx, ownerId, deps.limit);
      await refuseTaken(tx, ownerId, draft.name, "");
      const id = newId("prf");
      await insertProfile(tx, { id, ownerId, draft, sealed: sealSecrets(vault, id, 1, draft.settings) });
      if (isDefault) await setDefault(tx, ownerId, id);
      return answer(profileMessage(await owned(tx, ownerId, id), vault));
    }),
  );
}

async function admit(tx: Transaction<Database>, ownerId: string, limit: number): Promise<void> {
  const count = await countProfiles(tx, ownerId);
  if (count < limit) return;
  throw refusal(ErrorReason.PROFILE_LIMIT, `there are ${count} profiles and ${limit} are allowed: delete one first`, {
    limit: String(limit),
    count: String(count),
  });
}

/** Changes the fields that the request is about. */
export async function changeProfile(
  deps: ProfileChangeDeps,
  ownerId: string,
  { profileId, profile: sent, updateMask }: UpdateProfileRequest,
): Promise<Profile> {
  const profile = sent!;
  const fields = changedFields(profile, updateMask);
  const vault = await deps.userVault(ownerId);
  return deps.db.transaction().execute(async (tx) => {
    await lockOwner(tx, ownerId);
    const row = await owned(tx, ownerId, profileId);
    if (fields.has("is_default") && !profile.isDefault && row.is_default) {
      refuseProblems([{ field: "is_default", message: "make another profile the default instead" }]);
    }
    const draft: Draft = {
      name: fields.has("name") ? deps.checkedName(profile.name, nameLimit) : row.name,
      description: fields.has("description") ? profile.description : row.description,
      settings: changeSettings(settingsOf(row, vault), profile, fields, deps.isPattern),
    };
    await refuseTaken(tx, ownerId, draft.name, row.id);
    await updateProfile(tx, row.id, draft, sealSecrets(vault, row.id, row.generation + 1, draft.settings));
    if (fields.has("is_default") && profile.isDefault) await setDefault(tx, ownerId, row.id);
    return profileMessage(await owned(tx, ownerId, row.id), vault);
  });
}

async function refuseTaken(tx: Transaction<Database>, ownerId: string, name: string, ownId: string): Promise<void> {
  const holder = await findProfileByName(tx, ownerId, name);
  if (holder && holder.id !== ownId) throw refusal(ErrorReason.NAME_TAKEN, `you have another profile named "${name}"`, { name });
}

export async function makeDefault(deps: ProfileChangeDeps, ownerId: string, profileId: string): Promise<Profile> {
  const vault = await deps.userVault(ownerId);
  return deps.db.transaction().execute(async (tx) => {
    await lockOwner(tx, ownerId);
    await owned(tx, ownerId, profileId);
    await setDefault(tx, ownerId, profileId);
    return profileMessage(await owned(tx, ownerId, profileId), vault);
  });
}

export async function removeProfile(deps: ProfileChangeDeps, ownerId: string, profileId: string): Promise<void> {
  await deps.db.transaction().execute(async (tx) => {
    await lockOwner(tx, ownerId);
    const row = await owned(tx, ownerId, profileId);
    if (row.is_default) throw refusal(ErrorReason.DEFAULT_PROFILE, "this is the default profile: make another one the default first");
    await deleteProfile(tx, profileId);
  });
}

/** Rejects with the one answer for "not yours" and "not there". */
export async function owned(db: Kysely<Database>, ownerId: string, profileId: string): Promise<ProfileRow> {
  const row = await findProfile(db, ownerId, profileId);
  if (!row) throw notFound("profile");
  return row;
}
