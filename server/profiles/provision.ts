import type { Kysely, Transaction } from "kysely";
import type { Database } from "../db/database.ts";
import { newId } from "../ids.ts";
import { starterProfiles } from "./settings.ts";
import { findDefaultProfile, insertProfile, lockOwner, setDefault } from "./store.ts";

/** Makes the first profiles of a person, once: nothing happens for somebody who has them. Call it where the person is registered. */
export async function provisionDefaults(tx: Transaction<Database>, userId: string): Promise<void> {
  await lockOwner(tx, userId);
  if (await findDefaultProfile(tx, userId)) return;
  const now = Date.now();
  const made = starterProfiles.map((draft, index) => ({
    // A millisecond apart, so that their order in lists is this one.
    id: newId("prf", now + index),
    ownerId: userId,
    draft,
    sealed: { generation: 1, environment: null, mcp_servers: null },
  }));
  for (const profile of made) await insertProfile(tx, profile);
  await setDefault(tx, userId, made[0]!.id);
}

/** For people who registered before there were profiles. */
export async function provisionIfNeeded(db: Kysely<Database>, userId: string): Promise<void> {
  if (await findDefaultProfile(db, userId)) return;
  await db.transaction().execute((tx) => provisionDefaults(tx, userId));
}
