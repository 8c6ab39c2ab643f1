/** A prompt in one statement: the same, once and counted once, as under the lock, whoever else changes the session meanwhile. */
import { create } from "@bufbuild/protobuf";
import { sql } from "kysely";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { SendPromptRequestSchema, type SendPromptResponse } from "../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { type ChannelActions, createChannelActions } from "../../server/channel/actions.ts";
import { reasonOf } from "../../server/errors.ts";
import type { User } from "../../server/identity/principal.ts";
import { newUuid } from "../../server/ids.ts";
import { type Journal, present } from "../../server/journal/journal.ts";
import { finishTurn } from "../../server/journal/turns.ts";
import { createRateLimiter } from "../../server/limits/limiter.ts";
import { insertUser } from "../../server/registration/store.ts";
import { claimWithin, once } from "../../server/sessions/request-ids.ts";
import { aliveOf } from "../../server/sessions/service.ts";
import { createJournalCore, type JournalCore } from "../support/journal-core.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";

type Server = { journal: Journal; actions: ChannelActions; locked: number };

const limit = 40;
let database: TestDatabase;
let core: JournalCore;
let user: User;
/** Two servers, which share nothing but the database. */
let servers: [Server, Server];
let sessionId: string;

beforeAll(async () => {
  database = await createTestDatabase();
  core = await createJournalCore(database);
  user = {
    issuer: "test",
    subject: core.ownerId,
    email: undefined,
    operator: false,
    expiresAt: Date.now() + 600_000,
    userId: core.ownerId,
  };
});
afterAll(() => database?.drop());
beforeEach(async () => {
  servers = [serverOf(core.otherServer().journal), serverOf(core.otherServer().journal)];
  sessionId = await core.openSession();
  await idle(servers[0]);
});

/** Counts the prompts that were sent under the lock. */
function serverOf(journal: Journal): Server {
  const { prompt, promptWithin } = createRateLimiter({ perMinute: { registrations: 1, sessionCreates: 1, tickets: 1, prompts: limit } });
  const server: Server = {
    journal,
    locked: 0,
    actions: createChannelActions({
      db: database.db,
      journal,
      limiter: {
        prompt(tx, id) {
          server.locked += 1;
          return prompt(tx, id);
        },
        promptWithin,
      },
      rules: { derive: () => undefined, matches: () => false, verdict: () => ({ behavior: "ask" }) },
      userVault: core.userVault,
      aliveOf,
      requestIds: { once, claimWithin },
    }),
  };
  return server;
}

const send = ({ actions }: Server, text: string, requestId = ""): Promise<SendPromptResponse> =>
  actions.sendPrompt(user, create(SendPromptRequestSchema, { sessionId, text, requestId }));

/** Ends a turn, if there is one. True when the session then waits for a prompt; this server knows it so. */
const finish = ({ journal }: Server): Promise<boolean> =>
  journal.changeOptimistically(sessionId, present, async (change) => {
    if (change.session.turn > 0) await finishTurn(change, { success: true, subtype: "success" });
    else change.set({ state: "running", active_at: change.now });
    return change.session.turn === 0;
  });

async function idle(server: Server): Promise<void> {
  while (!(await finish(server)));
}

const callsTaken = async () =>
  (await database.db.selectFrom("rate_limit").select("taken").where("subject", "=", sessionId).executeTakeFirst())?.taken.length ?? 0;
const claimed = async (ids: readonly string[]) =>
  (await database.db.selectFrom("request_id").select("request_id").where("request_id", "in", ids).execute()).map((row) => row.request_id);
const prompts = async () => {
  const events = await core.reader.events(await core.reader.session(core.ownerId, sessionId), 0, 1_000);
  return events.flatMap(({ seq, payload }) => (payload?.kind.case === "user" ? [{ seq, ...payload.kind.value }] : []));
};
const newIds = (count: number) => Array.from({ length: count }, (_, index) => `${sessionId}-${index}`);

describe("a prompt to an idle session that this server changed last", () => {
  test("needs no lock, and leaves all that one under it does", async () => {
    const [id] = newIds(1);
    const first = await send(servers[0], "hello", id);
    expect([servers[0].locked, first.queued, first.position]).toEqual([0, false, 0]);
    expect(await prompts()).toMatchObject([{ seq: first.seq, text: "hello", requestId: id, queued: false }]);
    const { turn } = await core.reader.session(core.ownerId, sessionId);
    const commands = await database.db.selectFrom("command").select("id").where("session_id", "=", sessionId).execute();
    expect([turn, commands.length, await callsTaken(), await claimed([id!])]).toEqual([first.seq, 1, 1, [id]]);
    expect((await send(servers[1], "hello", id)).seq, "asked again, of another server").toBe(first.seq);
    expect((await send(servers[0], "hello", id)).seq).toBe(first.seq);
    expect([await callsTaken(), (await prompts()).length]).toEqual([1, 1]);
    expect(await send(servers[1], "other", id).catch(reasonOf)).toBe(ErrorReason.REQUEST_ID_REUSED);
  });

  test("is refused at the limit, and then neither claims its request id nor changes anything", async () => {
    for (let sent = 0; sent < limit; sent += 1) {
      await send(servers[0], `p${sent}`);
      await idle(servers[0]);
    }
    expect(servers[0].locked).toBe(0);
    const [id] = newIds(1);
    expect(await send(servers[0], "one more", id).catch(reasonOf)).toBe(ErrorReason.RATE_LIMITED);
    expect([await callsTaken(), (await prompts()).length, await claimed([id!])]).toEqual([limit, limit, []]);
    await sql`update rate_limit set taken = array(select at - interval '1 minute' from unnest(taken) at) where subject = ${sessionId}`.execute(
      database.db,
    );
    await idle(servers[0]);
    await send(servers[0], "one more", id);
    expect([await callsTaken(), (await prompts()).length, await claimed([id!])]).toEqual([limit, limit + 1, [id]]);
  });

  test("of somebody else, or of an ended session, is refused as under the lock", async () => {
    const stranger = { ...user, userId: newUuid() };
    await insertUser(database.db, { ...stranger, subject: stranger.userId }, (tx) => core.createUserKey(tx, stranger.userId));
    const request = create(SendPromptRequestSchema, { sessionId, text: "hello" });
    expect(await servers[0].actions.sendPrompt(stranger, request).catch(reasonOf)).toBe(ErrorReason.NOT_FOUND);
    await servers[0].journal.changeOptimistically(sessionId, present, ({ set }) => set({ desired: "end" }));
    expect(await send(servers[0], "hello").catch(reasonOf)).toBe(ErrorReason.SESSION_ENDED);
    expect([await callsTaken(), (await prompts()).length]).toEqual([0, 0]);
  });
});

describe("prompts through two servers at once", () => {
  test("with one request id become one prompt with one answer, each time", async () => {
    for (let round = 0; round < 20; round += 1) {
      const id = `${sessionId}-round-${round}`;
      const sent = [];
      // The first knows the session; the others come nearer behind it each time, until they are before it.
      for (let index = 0; index < 8; index += 1) {
        sent.push(send(servers[(round + index) % 2]!, "hello", id));
        for (let turn = round; turn < 20; turn += 1) await new Promise(setImmediate);
      }
      expect(new Set((await Promise.all(sent)).map(({ seq }) => seq)).size).toBe(1);
      await idle(servers[(round + 1) % 2]!);
    }
    expect([(await prompts()).length, await callsTaken()]).toEqual([20, 20]);
    expect(servers[0].locked + servers[1].locked, "some of them took no lock").toBeLessThan(20);
  });

  test("are let through to exactly the limit, while others change the row; who was refused left nothing", async () => {
    const ids = newIds(3 * limit);
    const outcomes: PromiseSettledResult<SendPromptResponse>[] = [];
    for (let from = 0; from < ids.length; from += 3) {
      await idle(servers[from % 2]!);
      const sent = ids.slice(from, from + 3).map((id, index) => send(servers[index % 2]!, id, id));
      const [settled] = await Promise.all([Promise.allSettled(sent), finish(servers[(from + 1) % 2]!)]);
      outcomes.push(...settled);
    }
    const sent = outcomes.flatMap((outcome, index) =>
      outcome.status === "fulfilled" ? [{ id: ids[index]!, seq: outcome.value.seq }] : [],
    );
    for (const outcome of outcomes) if (outcome.status === "rejected") expect(reasonOf(outcome.reason)).toBe(ErrorReason.RATE_LIMITED);
    const bySeq = (a: { seq: number }, b: { seq: number }) => a.seq - b.seq;
    expect([sent.length, await callsTaken()]).toEqual([limit, limit]);
    expect((await prompts()).map(({ seq, requestId }) => ({ id: requestId, seq }))).toEqual(sent.toSorted(bySeq));
    expect((await claimed(ids)).toSorted()).toEqual(sent.map(({ id }) => id).toSorted());
    const underLock = servers[0].locked + servers[1].locked - (outcomes.length - limit);
    expect(underLock, "some of them took no lock").toBeLessThan(limit);
  });
});
