/** Databases of a test server. Apart from postgres.ts, which only works inside a test: the global set-up uses this too. */
import pg from "pg";
import { type DatabaseAddress, poolConfig } from "../../server/db/connect.ts";

/** The same server, another database. */
export function addressOf(server: DatabaseAddress, database: string): DatabaseAddress {
  if (typeof server !== "string") return { ...server, database };
  const url = new URL(server);
  url.pathname = `/${database}`;
  return url.href;
}

export async function createDatabase(server: DatabaseAddress, name: string, template = "template0"): Promise<void> {
  await administer(server, `create database ${pg.escapeIdentifier(name)} template ${pg.escapeIdentifier(template)}`);
}

/** Also when somebody is still connected. */
export async function dropDatabase(server: DatabaseAddress, name: string): Promise<void> {
  await administer(server, `drop database if exists ${pg.escapeIdentifier(name)} with (force)`);
}

async function administer(server: DatabaseAddress, statement: string): Promise<void> {
  const client = new pg.Client(poolConfig(server));
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
