/** Before the first test that needs Postgres: one server and one migrated template; each test file clones the template. */
import type { TestProject } from "vitest/node";
import { connectDatabase, type DatabaseAddress } from "../../server/db/connect.ts";
import { migrateToLatest } from "../../server/db/migrate.ts";
import { addressOf, createDatabase, dropDatabase } from "./postgres-admin.ts";
import { silentLog, startPostgresServer } from "./postgres-server.ts";

declare module "vitest" {
  export interface ProvidedContext {
    postgres: { server: DatabaseAddress; template: string };
  }
}

export default async function setUpPostgres(project: TestProject): Promise<() => Promise<void>> {
  const tell = (line: string): void => void process.stderr.write(`test database: ${line}\n`);
  const server = await startPostgresServer(process.env, tell);
  tell(server.kind);
  const template = `carrel_template_${process.pid}`;
  await createDatabase(server.address, template);
  const { db, close } = connectDatabase({ connection: addressOf(server.address, template), poolSize: 1, log: silentLog() });
  await migrateToLatest(db).finally(close);
  project.provide("postgres", { server: server.address, template });
  return async () => {
    await dropDatabase(server.address, template);
    await server.stop();
  };
}
