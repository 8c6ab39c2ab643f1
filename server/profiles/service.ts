import { create } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Profile } from "../../gen/carrel/v1/profile_pb.ts";
import {
  type CaptureProfileRequest,
  CaptureProfileRequestSchema,
  CaptureProfileResponseSchema,
  type CreateProfileRequest,
  CreateProfileRequestSchema,
  CreateProfileResponseSchema,
  type ProfileService,
} from "../../gen/carrel/v1/profile_service_pb.ts";
import { addProfile, changeProfile, makeDefault, nameLimit, owned, type ProfileChangeDeps, removeProfile } from "./changes.ts";
import { profileMessage } from "./message.ts";
import { provisionIfNeeded } from "./provision.ts";
import { changeSettings, optionFields } from "./rules.ts";
import { type ProfileSettings, plainSettings } from "./settings.ts";
import { listProfiles, type ProfileRow } from "./store.ts";

export type ProfileServiceDeps = ProfileChangeDeps & {
  userIdOf(context: HandlerContext): string;
  /** What a session of this owner runs with, secrets in clear. Rejects with NOT_FOUND. */
  sessionSettings(ownerId: string, sessionId: string): Promise<ProfileSettings>;
};

export function createProfileService(deps: ProfileServiceDeps): ServiceImpl<typeof ProfileService> {
  const message = async (row: ProfileRow): Promise<Profile> => profileMessage(row, await deps.userVault(row.owner_id));

  return {
    createProfile: (request, context) => createProfile(deps, deps.userIdOf(context), request),
    async listProfiles(_request, context) {
      const ownerId = deps.userIdOf(context);
      await provisionIfNeeded(deps.db, ownerId);
      return { profiles: await Promise.all((await listProfiles(deps.db, ownerId)).map(message)) };
    },
    getProfile: async ({ profileId }, context) => ({ profile: await message(await owned(deps.db, deps.userIdOf(context), profileId)) }),
    updateProfile: async (request, context) => ({ profile: await changeProfile(deps, deps.userIdOf(context), request) }),
    async deleteProfile({ profileId }, context) {
      await removeProfile(deps, deps.userIdOf(context), profileId);
      return { deleted: true };
    },
    setDefaultProfile: async ({ profileId }, context) => ({ profile: await makeDefault(deps, deps.userIdOf(context), profileId) }),
    captureProfile: (request, context) => captureProfile(deps, deps.userIdOf(context), request),
  };
}

function createProfile(deps: ProfileServiceDeps, ownerId: string, request: CreateProfileRequest) {
  const profile = request.profile!;
  const draft = {
    name: deps.checkedName(profile.name, nameLimit),
    description: profile.description,
    settings: changeSettings(plainSettings, profile, optionFields, deps.isPattern),
  };
  const call = { method: "CreateProfile", schema: CreateProfileRequestSchema, request, response: CreateProfileResponseSchema };
  return addProfile(deps, ownerId, call, { draft, isDefault: profile.isDefault }, (made) =>
    create(CreateProfileResponseSchema, { profile: made }),
  );
}

async function captureProfile(deps: ProfileServiceDeps, ownerId: string, request: CaptureProfileRequest) {
  const name = deps.checkedName(request.name, nameLimit);
  const settings = await deps.sessionSettings(ownerId, request.sessionId);
  const draft = { name, description: request.description, settings };
  const call = { method: "CaptureProfile", schema: CaptureProfileRequestSchema, request, response: CaptureProfileResponseSchema };
  return addProfile(deps, ownerId, call, { draft, isDefault: false }, (made) => create(CaptureProfileResponseSchema, { profile: made }));
}
