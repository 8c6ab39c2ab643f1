/** Brings the schema up to date, and says whether it is. */
import { type Kysely, sql } from "kysely";
import { type Migration, Migrator } from "kysely/migration";
import type { Database } from "./database.ts";
import { migrations as ourMigrations } from "./migrations/index.ts";

/**
 * The schema and this program do not fit: `missing` migrations have not been applied, `unknown` ones come from a newer
 * Carrel and say that this one cannot work with them.
 */
export class SchemaMismatchError extends Error {
  readonly missing: string[];
  readonly unknown: string[];

  constructor(missing: string[], unknown: string[]) {
    super(
      unknown.length > 0
        ? `the database was changed by a newer Carrel (${unknown.join(", ")}); start that version`
        : `the database is not up to date: ${missing.join(", ")} not applied`,
    );
    this.name = "SchemaMismatchError";
    this.missing = missing;
    this.unknown = unknown;
  }
}

/**
 * Applies what is missing, all or nothing, under a lock: several servers may do this at once.
 * Returns the names it applied. A database that a newer Carrel has changed compatibly is left as it is.
 */
export async function migrateToLatest(db: Kysely<Database>, migrations: Record<string, Migration> = ourMigrations): Promise<string[]> {
  return db.connection().execute(async (connection) => {
    // Waiting for another server's migration, or rewriting a large table, outlasts the limits of ordinary work.
    await sql`set statement_timeout = 0`.execute(connection);
    await sql`set lock_timeout = 0`.execute(connection);
    try {
      if ((await findUnknown(connection, migrations)).length > 0) {
        await verifyMigrated(connection, migrations);
        return [];
      }
      const migrator = new Migrator({ db: connection, provider: { getMigrations: () => Promise.resolve(migrations) } });
      const { error, results = [] } = await migrator.migrateToLatest();
      const failed = results.find((result) => result.status === "Error");
      if (error !== undefined) throw new Error(`migration ${failed?.migrationName ?? "of the database"} failed`, { cause: error });
      return results.map((result) => result.migrationName);
    } finally {
      await sql`reset statement_timeout`.execute(connection);
      await sql`reset lock_timeout`.execute(connection);
    }
  });
}

/** Throws `SchemaMismatchError` unless this program can work with the schema as it is. */
export async function verifyMigrated(db: Kysely<Database>, migrations: Record<string, Migration> = ourMigrations): Promise<void> {
  const applied = await findApplied(db);
  const missing = Object.keys(migrations).filter((name) => !applied.includes(name));
  const unknown = applied.filter((name) => !Object.hasOwn(migrations, name) && name.endsWith("_breaking"));
  if (missing.length > 0 || unknown.length > 0) throw new SchemaMismatchError(missing, unknown);
}

async function findUnknown(db: Kysely<Database>, migrations: Record<string, Migration>): Promise<string[]> {
  return (await findApplied(db)).filter((name) => !Object.hasOwn(migrations, name));
}

async function findApplied(db: Kysely<Database>): Promise<string[]> {
  const { rows: found } = await sql<{ exists: boolean }>`select to_regclass('kysely_migration') is not null as "exists"`.execute(db);
  if (found[0]?.exists !== true) return [];
  const { rows } = await sql<{ name: string }>`select name from kysely_migration order by name`.execute(db);
  return rows.map((row) => row.name);
}
