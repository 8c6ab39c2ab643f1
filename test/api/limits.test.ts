import { create } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import { type Kysely, sql } from "kysely";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { SendPromptRequestSchema, SendPromptResponseSchema } from "../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { RetryInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { errorFrame } from "../../server/channel/websocket/server-frames.ts";
import { connectDatabase } from "../../server/db/connect.ts";
import type { Database } from "../../server/db/database.ts";
import { reasonOf } from "../../server/errors.ts";
import { restErrorOf } from "../../server/http/rest/errors.ts";
import { newUuid } from "../../server/ids.ts";
import { createRateLimiter, type RateLimiter } from "../../server/limits/limiter.ts";
import { takeCall } from "../../server/limits/store.ts";
import { insertUser } from "../../server/registration/store.ts";
import { once } from "../../server/sessions/request-ids.ts";
import type { UserVault } from "../../server/vault/user-vault.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { silentLog } from "../support/postgres-server.ts";

const perMinute = { registrations: 10, sessionCreates: 10, prompts: 60, tickets: 20 };
const minuteMs = 60_000;

type Server = { db: Kysely<Database>; limiter: RateLimiter; close(): Promise<void> };

let database: TestDatabase;
/** Two servers, which share nothing but the database. */
let servers: [Server, Server];
let subject: string;

beforeAll(async () => {
  database = await createTestDatabase();
  const server = (): Server => ({
    ...connectDatabase({ connection: database.connection, poolSize: 8, log: silentLog() }),
    limiter: createRateLimiter({ perMinute }),
  });
  servers = [server(), server()];
});
afterAll(async () => {
  for (const server of servers) await server.close();
  await database.drop();
});
beforeEach(() => {
  subject = newUuid();
});

const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const serverOf = (call: number): Server => servers[call % 2]!;

type Kind = { name: string; limit: number; call(server: Server, of?: string): Promise<void> };
const kinds: Kind[] = [
  {
    name: "registration",
    limit: 10,
    call: ({ db, limiter }, of = subject) => limiter.registration(db, { issuer: "https://issuer.example", subject: of }),
  },
  { name: "session_create", limit: 10, call: ({ db, limiter }, of = subject) => limiter.sessionCreate(db, of) },
  { name: "ticket", limit: 20, call: ({ db, limiter }, of = subject) => limiter.ticket(db, of) },
  { name: "prompt", limit: 60, call: ({ db, limiter }, of = subject) => limiter.prompt(db, of) },
];
const prompts = kinds[3]!;

/** Milliseconds to wait for one of `limit` calls a minute; 0 when it was let through. */
const take = (server: Server, limit: number) => takeCall(server.db, { kind: "test", subject, limit, windowMs: minuteMs });

async function refusalOf(call: Promise<unknown>): Promise<ConnectError> {
  const error = await call.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(reasonOf(error)).toBe(ErrorReason.RATE_LIMITED);
  return error as ConnectError;
}

const secondsOf = (error: ConnectError) => Number(restErrorOf(error).headers["retry-after"]);

/** Lets time pass for a limit, by moving what was called into the past. */
async function pass(seconds: number): Promise<void> {
  await sql`update rate_limit set taken = array(select at - ${seconds} * interval '1 second' from unnest(taken) at) where subject = ${subject}`.execute(
    database.db,
  );
}

async function callsOf(of: string): Promise<number | undefined> {
  const row = await database.db.selectFrom("rate_limit").select("taken").where("subject", "=", of).executeTakeFirst();
  return row?.taken.length;
}

describe.each(kinds)("the limit of a $name", ({ limit, call }) => {
  it(`lets ${limit} through in a minute, whichever server is asked, and refuses the next on both`, async () => {
    for (let index = 0; index < limit; index++) await call(serverOf(index));
    await refusalOf(call(servers[0]));
    await refusalOf(call(servers[1]));
  });

  it("lets exactly that many of 200 at once through", async () => {
    const outcomes = await Promise.allSettled(Array.from({ length: 200 }, (_, index) => call(serverOf(index))));
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(limit);
    for (const outcome of outcomes) if (outcome.status === "rejected") expect(reasonOf(outcome.reason)).toBe(ErrorReason.RATE_LIMITED);
  });

  it("leaves everybody else alone", async () => {
    for (let index = 0; index < limit; index++) await call(servers[0]);
    await refusalOf(call(servers[0]));
    await call(servers[0], newUuid());
  });
});

it("the limits do not count each other's calls", async () => {
  for (let index = 0; index < 10; index++) await kinds[1]!.call(serverOf(index));
  await refusalOf(kinds[1]!.call(servers[0]));
  await kinds[0]!.call(servers[0]);
  await prompts.call(servers[0]);
});

describe("a minute", () => {
  it("slides: each call is free again when it is a minute old, and no earlier", async () => {
    expect(await take(servers[0], 3)).toBe(0);
    await pass(30);
    expect(await take(servers[1], 3)).toBe(0);
    expect(await take(servers[0], 3)).toBe(0);
    await pass(29.5);
    expect(await take(servers[1], 3)).toBeGreaterThan(1);
    expect(await take(servers[1], 3)).toBeLessThanOrEqual(500);
    await pass(0.5);
    expect(await take(servers[0], 3)).toBe(0);
    const wait = await take(servers[1], 3);
    expect(wait).toBeLessThanOrEqual(30_000);
    expect(wait).toBeGreaterThan(29_000);
    expect(await callsOf(subject), "calls that no longer matter are forgotten").toBe(3);
  });

  it("never holds more than the limit, wherever it begins, and no call is refused that would have fitted", async () => {
    const gaps = fc.array(
      fc.integer({ min: 0, max: 5 }).map((steps) => steps * 5),
      { minLength: 10, maxLength: 40 },
    );
    await fc.assert(
      fc.asyncProperty(gaps, fc.integer({ min: 1, max: 6 }), async (seconds, limit) => {
        subject = newUuid();
        const accepted: number[] = [];
        let now = 0;
        for (const [index, gap] of seconds.entries()) {
          if (index > 0 && gap > 0) await pass(gap);
          now += gap;
          const wait = await take(serverOf(index), limit);
          const live = accepted.filter((at) => at > now - 60);
          expect(wait === 0).toBe(live.length < limit);
          if (wait === 0) accepted.push(now);
          else expect(Math.abs(live.at(-limit)! + 60 - now - wait / 1000)).toBeLessThan(3);
        }
      }),
      { numRuns: 40 },
    );
  });

  it("takes a lowered limit at once, and a raised one too", async () => {
    for (let index = 0; index < 4; index++) expect(await take(servers[0], 4)).toBe(0);
    expect(await take(servers[1], 2)).toBeGreaterThan(0);
    expect(await take(servers[1], 5)).toBe(0);
    expect(await take(servers[0], 5)).toBeGreaterThan(0);
  });

  it("holds no more than the limit either when many clients of two servers come as they like, and 95 % of it is had", async () => {
    await sql`create table let_through (at timestamptz not null)`.execute(database.db);
    await sql`create function note_call() returns trigger language plpgsql as
      $$ begin insert into let_through values (new.taken[cardinality(new.taken)]); return new; end $$`.execute(database.db);
    await sql`create trigger note_call after insert or update on rate_limit for each row execute function note_call()`.execute(database.db);
    const allowance = { kind: "test", subject, limit: 20, windowMs: 500 };
    const end = performance.now() + 4_000;
    let taken = 0;
    const client = async (server: Server): Promise<void> => {
      while (performance.now() < end) {
        const wait = await takeCall(server.db, allowance);
        if (wait === 0) taken += 1;
        await pause(wait === 0 ? Math.random() * 3 : Math.min(wait, 1 + Math.random() * 10));
      }
    };
    await Promise.all(Array.from({ length: 12 }, (_, index) => client(serverOf(index))));
    await sql`drop trigger note_call on rate_limit`.execute(database.db);
    const { rows } = await sql<{ at: number }>`select (extract(epoch from at) * 1000000)::int8 as at from let_through order by at`.execute(
      database.db,
    );
    const times = rows.map(({ at }) => at);
    expect(times).toHaveLength(taken);
    const closest = Math.min(...times.slice(allowance.limit).map((at, index) => at - times[index]!));
    expect(closest).toBeGreaterThanOrEqual(500_000);
    expect(taken).toBeGreaterThanOrEqual(0.95 * allowance.limit * 8);
  });
});

describe("a refused call", () => {
  it("is told how many seconds to wait: on RPC, as 429 on REST, in an error frame on the WebSocket", async () => {
    for (let index = 0; index < 60; index++) await prompts.call(serverOf(index));
    await pass(20);
    const error = await refusalOf(prompts.call(servers[0]));
    expect(secondsOf(error)).toBe(40);
    expect(error.findDetails(RetryInfoSchema)[0]?.retryDelay?.seconds).toBe(40n);
    expect(restErrorOf(error)).toMatchObject({
      status: 429,
      body: { error: "rate_limited", message: "more than 60 prompts to a session in a minute" },
    });
    expect(JSON.parse(errorFrame("ses_1", error).toString())).toMatchObject({
      type: "error",
      payload: { code: "rate_limited", retry_after: 40 },
    });
  });

  it("succeeds when it comes again after that time", async () => {
    const { db } = servers[0];
    const short = createRateLimiter({ perMinute: { ...perMinute, prompts: 2 }, windowMs: 900 });
    await short.prompt(db, subject);
    await short.prompt(db, subject);
    await pause(secondsOf(await refusalOf(short.prompt(db, subject))) * 1000);
    await short.prompt(db, subject);
  });

  it("costs nothing: it is not counted, and writes nothing to the database", async () => {
    expect(await take(servers[0], 1)).toBe(0);
    await servers[1].db.transaction().execute(async (tx) => {
      for (let index = 0; index < 20; index++)
        expect(await takeCall(tx, { kind: "test", subject, limit: 1, windowMs: minuteMs })).toBeGreaterThan(0);
      const { rows } = await sql<{ id: string | null }>`select pg_current_xact_id_if_assigned() as id`.execute(tx);
      expect(rows).toEqual([{ id: null }]);
    });
    await pass(60);
    expect(await take(servers[0], 1)).toBe(0);
  });
});

describe("in the transaction of its work", () => {
  it("a call whose work fails is not counted, while 200 come at once", async () => {
    const call = (index: number) =>
      serverOf(index)
        .db.transaction()
        .execute(async (tx) => {
          await serverOf(index).limiter.prompt(tx, subject);
          if (index % 2 === 0) throw new Error("the work failed");
        });
    const outcomes = await Promise.allSettled(Array.from({ length: 200 }, (_, index) => call(index)));
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(60);
    expect(await callsOf(subject)).toBe(60);
  });

  it("a repeated request_id is answered again without being counted, also when nothing is left, and a refused one may come again", async () => {
    const ownerId = newUuid();
    await insertUser(database.db, { userId: ownerId, issuer: "carrel", subject: ownerId, email: undefined }, () => Promise.resolve());
    const vault: UserVault = { seal: (_purpose, _context, plain) => plain, open: (_purpose, _context, sealed) => sealed };
    const one = createRateLimiter({ perMinute: { ...perMinute, prompts: 1 } });
    let seq = 0;
    const send = (requestId: string, server: Server) =>
      server.db.transaction().execute((tx) => {
        const message = create(SendPromptRequestSchema, { sessionId: subject, text: "hello", requestId });
        const request = { schema: SendPromptRequestSchema, message };
        return once(tx, { ownerId, method: "SendPrompt", requestId, vault, request, response: SendPromptResponseSchema }, async () => {
          await one.prompt(tx, subject);
          seq += 1;
          return create(SendPromptResponseSchema, { seq });
        });
      });
    const answers = await Promise.all(Array.from({ length: 10 }, (_, index) => send("a", serverOf(index))));
    expect(answers.map((answer) => answer.seq)).toEqual(Array.from({ length: 10 }, () => 1));
    expect(await callsOf(subject)).toBe(1);
    await refusalOf(send("b", servers[0]));
    await pass(60);
    expect((await send("b", servers[1])).seq).toBe(2);
  });
});

describe("the sweep", () => {
  it("removes whom no limit depends on any more, and nobody else", async () => {
    await take(servers[0], 5);
    await pass(61);
    const recent = newUuid();
    await prompts.call(servers[0], recent);
    await servers[1].limiter.sweep(servers[1].db);
    expect(await callsOf(subject)).toBeUndefined();
    expect(await callsOf(recent)).toBe(1);
  });

  it("frees those who called when the clock was wrong and ahead", async () => {
    await take(servers[0], 1);
    await pass(-3_600);
    expect(await take(servers[0], 1)).toBeGreaterThan(minuteMs);
    await servers[1].limiter.sweep(servers[1].db);
    expect(await take(servers[0], 1)).toBe(0);
  });

  it("does not wait for a call that is under way", async () => {
    await take(servers[0], 5);
    await pass(61);
    await servers[0].db.transaction().execute(async (tx) => {
      await takeCall(tx, { kind: "test", subject, limit: 5, windowMs: minuteMs });
      await servers[1].limiter.sweep(servers[1].db);
    });
    expect(await callsOf(subject)).toBe(2);
  });
});
