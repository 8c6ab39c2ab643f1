import { createHash } from "node:crypto";
import type pg from "pg";
import { isSilence } from "./failures.ts";

/** Statements of a Carrel number a few dozen; a text that varies without end is sent as it is. */
const mostStatements = 500;

/** Names by text, shared by all connections of a pool. A name is all that tells pg to prepare a statement once and reuse it. */
function createStatementNames(): (text: string) => string | undefined {
  const names = new Map<string, string>();
  return (text) => {
    const known = names.get(text);
    if (known || names.size >= mostStatements) return known;
    const name = createHash("sha256").update(text).digest("base64url").slice(0, 22);
    names.set(text, name);
    return name;
  };
}

type Query = (config: string | pg.QueryConfig, values?: unknown[]) => Promise<pg.QueryResult>;

/**
 * The clients of a pool with their parametrised statements prepared on first use: Postgres then parses and plans each once
 * for a connection, which is about half of what a primary-key query costs it. One and the same for each client, because
 * whoever is lent it remembers what it knows of it by that.
 */
export function createPreparingClients(): (client: pg.PoolClient) => pg.PoolClient {
  const nameOf = createStatementNames();
  const preparing = new WeakMap<pg.PoolClient, pg.PoolClient>();
  return (client) => {
    const known = preparing.get(client) ?? withPreparedStatements(client, nameOf);
    preparing.set(client, known);
    return known;
  };
}

function withPreparedStatements(client: pg.PoolClient, nameOf: (text: string) => string | undefined): pg.PoolClient {
  const send = client.query.bind(client) as Query;
  const query: Query = (config, values) =>
    send(config, values).catch((error: unknown) => {
      // Whatever is asked next would wait behind what was never answered.
      if (isSilence(error)) void client.end();
      throw error;
    });
  const prepared: Query = (config, values) => {
    if (typeof config !== "string" || !values || values.length === 0) return query(config, values);
    const name = nameOf(config);
    return query(name ? { name, text: config, values } : { text: config, values });
  };
  return new Proxy(client, { get: (target, property) => (property === "query" ? prepared : bound(target, property)) });
}

function bound(client: pg.PoolClient, property: string | symbol): unknown {
  const value: unknown = Reflect.get(client, property, client);
  return typeof value === "function" ? (value as (...args: unknown[]) => unknown).bind(client) : value;
}
