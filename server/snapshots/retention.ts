import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import type { Archives } from "./archives.ts";
import { forgetExpired, isStranded, listUnused } from "./store.ts";

export type RetentionDeps = {
  db: Kysely<Database>;
  archives: Archives;
  /** How long a session that nobody uses is kept, and what is kept of one that has ended. */
  retentionMs: number;
  /** Whether no other installation keeps archives in the same store. */
  isOurs: boolean;
  /** Ends a session, if nobody has asked for it meanwhile. */
  end(sessionId: string, why: string): Promise<void>;
};

/** Ends the sessions that nobody has used for the retention time, and removes what is kept of those that ended so long ago. */
export async function enforceRetention({ db, archives, retentionMs, isOurs, end }: RetentionDeps): Promise<void> {
  const days = Math.round((retentionMs / 86_400_000) * 10) / 10;
  for (const { id } of await listUnused(db, retentionMs)) await end(id, `nobody used it for ${days} days`);
  for (const archive of await forgetExpired(db, retentionMs)) await archives.remove(archive);
  for await (const archive of archives.list()) {
    if (Date.now() - madeAt(archive) > strandedMs && (await isStranded(db, archive, isOurs))) await archives.remove(archive);
  }
}

/** What a process that died left behind is nobody's after a day. */
const strandedMs = 86_400_000;

/** Names are `<session id>/<id of the archive>`, and ids begin with the time they were made. */
function madeAt(archive: string): number {
  return Number.parseInt(/\/arc_([0-9a-f]{12})/.exec(archive)?.[1] ?? "ffffffffffff", 16);
}
