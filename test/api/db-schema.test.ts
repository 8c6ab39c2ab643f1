import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { sql } from "kysely";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { dumpSchema } from "../support/schema-snapshot.ts";

const snapshot = path.resolve("test/schema.snapshot.sql");
const heading = "-- The schema after all migrations. Not written by hand: UPDATE_SCHEMA=1 npm test -- test/api/db-schema.test.ts\n\n";

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

describe("the schema", () => {
  it("is the one that was reviewed", async () => {
    const schema = heading + (await dumpSchema(database.db));
    if (process.env["UPDATE_SCHEMA"] === "1") writeFileSync(snapshot, schema);
    expect(schema).toBe(readFileSync(snapshot, "utf8"));
  });

  it("shows every kind of thing a migration may make", async () => {
    await sql`
      create type mood as enum ('good', 'bad');
      create table parent (id text primary key, n int not null default 3 check (n > 0), twice int generated always as (n * 2) stored);
      create table child (parent_id text references parent on delete cascade, mood mood, unique (parent_id, mood));
      create index child_good on child (mood) where mood = 'good';`.execute(database.db);
    const schema = await dumpSchema(database.db);
    for (const part of [
      "table parent (",
      "n integer not null default 3",
      "twice integer generated always as (n * 2)",
      "CHECK ((n > 0))",
      "FOREIGN KEY (parent_id) REFERENCES parent(id) ON DELETE CASCADE",
      "UNIQUE (parent_id, mood)",
      "CREATE INDEX child_good ON public.child USING btree (mood) WHERE (mood = 'good'::mood)",
      "type mood as enum ('good', 'bad')",
    ]) {
      expect(schema).toContain(part);
    }
  });
});
