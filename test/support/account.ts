/** What is stored of a person, wherever it is: for tests that look for what must be gone. */
import { readdirSync } from "node:fs";
import { sql } from "kysely";
import type { Installation } from "./carrel.ts";
import { placesOf } from "./sandboxes.ts";

export async function userIdOf({ database }: Installation, email: string): Promise<string> {
  const row = await database.db.selectFrom("app_user").select("id").where("subject", "=", email).executeTakeFirstOrThrow();
  return row.id;
}

/** The tables that hold one of these texts in any column, in any form that a dump would show. */
export async function tablesNaming({ database }: Installation, texts: readonly string[]): Promise<string[]> {
  const { rows: tables } = await sql<{ name: string }>`select tablename as name from pg_tables where schemaname = 'public'`.execute(
    database.db,
  );
  const found: string[] = [];
  for (const { name } of tables) {
    const pattern = texts.join("|");
    const { rows } = await sql<{ count: number }>`
      select count(*)::int as count from ${sql.table(name)} as one where one::text ~ ${pattern}`.execute(database.db);
    if (rows[0]!.count > 0) found.push(name);
  }
  return found;
}

/** Files and directories of the installation whose path holds one of these texts: what is in them is sealed, or in boxes. */
export function filesNaming(installation: Installation, texts: readonly string[]): string[] {
  const { data, run } = placesOf(installation);
  const paths = [data, run].flatMap((directory) => readdirSync(directory, { recursive: true, encoding: "utf8" }));
  return paths.filter((path) => texts.some((text) => path.includes(text)));
}
