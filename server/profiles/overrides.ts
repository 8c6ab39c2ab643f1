import { create, isFieldSet } from "@bufbuild/protobuf";
import { ProfileSchema } from "../../gen/carrel/v1/profile_pb.ts";
import { type CreateSessionRequest, CreateSessionRequestSchema } from "../../gen/carrel/v1/session_service_pb.ts";
import type { OpenProfile } from "./open.ts";
import { changeSettings, type IsPattern, optionFields } from "./rules.ts";
import { namesOf } from "./secrets.ts";
import type { ProfileSettings } from "./settings.ts";

export type EffectiveSettings = (
  userId: string,
  request: CreateSessionRequest,
) => Promise<{ profileId: string; settings: ProfileSettings }>;

/** What a new session is pinned to: the profile it names, or the default one, with the request's own options over it. */
export function createEffectiveSettings(openProfile: OpenProfile, isPattern: IsPattern): EffectiveSettings {
  return async (userId, request) => {
    const { id, settings } = await openProfile(userId, { profileId: request.profileId, profileName: request.profileName });
    const fields = CreateSessionRequestSchema.fields.filter((field) => optionFields.has(field.name) && isFieldSet(request, field));
    return {
      profileId: id,
      settings: changeSettings(settings, overriding(request, settings), new Set(fields.map(({ name }) => name)), isPattern),
    };
  };
}

/** The request's options as those of a profile. Its environment adds to that of the profile. */
function overriding(request: CreateSessionRequest, settings: ProfileSettings) {
  const { maxTurns, maxBudgetUsd, oneShot, ttlSeconds } = request;
  return create(ProfileSchema, {
    allowedTools: request.allowedTools,
    deniedTools: request.deniedTools,
    permissionMode: request.permissionMode,
    model: request.model,
    environment: { ...namesOf(settings.environment), ...request.environment },
    mcpServers: request.mcpServers,
    allowedHosts: request.allowedHosts,
    oneShot: oneShot ?? false,
    ...(maxTurns === undefined ? {} : { maxTurns }),
    ...(maxBudgetUsd === undefined ? {} : { maxBudgetUsd }),
    ...(ttlSeconds === undefined ? {} : { ttlSeconds }),
  });
}
