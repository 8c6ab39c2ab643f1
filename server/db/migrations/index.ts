/**
 * Every change of the schema, in order, listed by hand so that a conflict of two is visible in a merge.
 *
 * Keys sort in the order of application (`0001_foundation`). Forward only; a migration that code of the release before
 * cannot live with ends in `_breaking`, and that code then refuses to start.
 */
import type { Migration } from "kysely/migration";
import * as foundation from "./0001_foundation.ts";
import * as profiles from "./0002_profiles.ts";
import * as rateLimits from "./0003_rate_limits.ts";
import * as sessionSettings from "./0004_session_settings.ts";
import * as profileMemory from "./0005_profile_memory.ts";
import * as channel from "./0006_channel.ts";
import * as hibernation from "./0007_hibernation.ts";
import * as deregistration from "./0008_deregistration.ts";
import * as carriedAnswers from "./0009_carried_answers.ts";
import * as increments from "./0010_increments.ts";
import * as parking from "./0011_parking.ts";
import * as startMarks from "./0012_start_marks.ts";

export const migrations: Record<string, Migration> = {
  "0001_foundation": foundation,
  "0002_profiles": profiles,
  "0003_rate_limits": rateLimits,
  "0004_session_settings": sessionSettings,
  "0005_profile_memory": profileMemory,
  "0006_channel": channel,
  "0007_hibernation": hibernation,
  "0008_deregistration": deregistration,
  "0009_carried_answers": carriedAnswers,
  "0010_increments": increments,
  "0011_parking": parking,
  "0012_start_marks": startMarks,
};
