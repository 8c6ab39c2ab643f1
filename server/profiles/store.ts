import { type ColumnType, type Generated, type Kysely, type Selectable, sql, type Transaction } from "kysely";
import type { Database } from "../db/database.ts";
import type { SealedSettings } from "./seal.ts";
import type { Draft } from "./settings.ts";

type Envelope = ColumnType<Buffer | null, Uint8Array | null, Uint8Array | null>;

type ProfileTable = {
  id: string;
  owner_id: string;
  /** Unique for the owner. */
  name: string;
  description: string;
  allowed_tools: string[];
  denied_tools: string[];
  permission_mode: string;
  model: string;
  max_turns: number | null;
  max_budget_micros: number | null;
  one_shot: boolean;
  ttl_seconds: number | null;
  allowed_hosts: string[];
  /** Counts the times the two envelopes were sealed, from 1. */
  generation: number;
  environment: Envelope;
  mcp_servers: Envelope;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
};

/**
 * Which profile is somebody's default: a reference, so that there is never more than one and never one that is gone. The row is
 * written with the first profiles, so its presence also says that they were made.
 */
type DefaultProfileTable = { owner_id: string; profile_id: string };

export type ProfileTables = { profile: ProfileTable; default_profile: DefaultProfileTable };
export type ProfileRow = Selectable<ProfileTable> & { is_default: boolean };

/** Serialises the changes of one person's profiles. Weaker than FOR UPDATE: rows that only refer to the person do not wait for it. */
export async function lockOwner(tx: Transaction<Database>, ownerId: string): Promise<void> {
  await tx.selectFrom("app_user").select("id").where("id", "=", ownerId).forNoKeyUpdate().executeTakeFirstOrThrow();
}

function selectProfiles(db: Kysely<Database>, ownerId: string) {
  return db
    .selectFrom("profile")
    .leftJoin("default_profile", "default_profile.profile_id", "profile.id")
    .selectAll("profile")
    .select(sql<boolean>`default_profile.profile_id is not null`.as("is_default"))
    .where("profile.owner_id", "=", ownerId);
}

/** Oldest first. */
export function listProfiles(db: Kysely<Database>, ownerId: string): Promise<ProfileRow[]> {
  return selectProfiles(db, ownerId).orderBy("profile.id").execute();
}

export function findProfile(db: Kysely<Database>, ownerId: string, id: string): Promise<ProfileRow | undefined> {
  return selectProfiles(db, ownerId).where("profile.id", "=", id).executeTakeFirst();
}

export function findProfileByName(db: Kysely<Database>, ownerId: string, name: string): Promise<ProfileRow | undefined> {
  return selectProfiles(db, ownerId).where("profile.name", "=", name).executeTakeFirst();
}

/** Undefined as long as the person's first profiles have not been made. */
export function findDefaultProfile(db: Kysely<Database>, ownerId: string): Promise<ProfileRow | undefined> {
  return selectProfiles(db, ownerId).where("default_profile.profile_id", "is not", null).executeTakeFirst();
}

export async function countProfiles(tx: Transaction<Database>, ownerId: string): Promise<number> {
  const row = await tx
    .selectFrom("profile")
    .select((expression) => expression.fn.countAll<number>().as("count"))
    .where("owner_id", "=", ownerId)
    .executeTakeFirstOrThrow();
  return Number(row.count);
}

export async function insertProfile(
  tx: Transaction<Database>,
  profile: { id: string; ownerId: string; draft: Draft; sealed: SealedSettings },
): Promise<void> {
  await tx
    .insertInto("profile")
    .values({ id: profile.id, owner_id: profile.ownerId, ...columnsOf(profile.draft), ...profile.sealed })
    .execute();
}

export async function updateProfile(tx: Transaction<Database>, id: string, draft: Draft, sealed: SealedSettings): Promise<void> {
  await tx
    .updateTable("profile")
    .set({ ...columnsOf(draft), ...sealed, updated_at: sql`clock_timestamp()` })
    .where("id", "=", id)
    .execute();
}

function columnsOf({ name, description, settings }: Draft) {
  return {
    name,
    description,
    allowed_tools: settings.allowedTools,
    denied_tools: settings.deniedTools,
    permission_mode: settings.permissionMode,
    model: settings.model,
    max_turns: settings.maxTurns,
    max_budget_micros: settings.maxBudgetMicros,
    one_shot: settings.oneShot,
    ttl_seconds: settings.ttlSeconds,
    allowed_hosts: settings.allowedHosts,
  };
}

export async function deleteProfile(tx: Transaction<Database>, id: string): Promise<void> {
  await tx.deleteFrom("profile").where("id", "=", id).execute();
}

export async function setDefault(tx: Transaction<Database>, ownerId: string, profileId: string): Promise<void> {
  await tx
    .insertInto("default_profile")
    .values({ owner_id: ownerId, profile_id: profileId })
    .onConflict((conflict) => conflict.column("owner_id").doUpdateSet({ profile_id: profileId }))
    .execute();
}
