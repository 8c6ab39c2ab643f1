/** Changes without the lock: in effect the same as those under it, whoever else changes the session meanwhile. */
import { create } from "@bufbuild/protobuf";
import { sql } from "kysely";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import type { WatchCommandsResponse } from "../../gen/carrel/runner/v1/runner_service_pb.ts";
import { EventPayloadSchema } from "../../gen/carrel/v1/event_pb.ts";
import type { Change } from "../../server/journal/journal.ts";
import { createJournal, present } from "../../server/journal/journal.ts";
import { chainLink, emptyChain } from "../../server/journal/seal.ts";
import { createJournalCore, type JournalCore, said } from "../support/journal-core.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";

let database: TestDatabase;
let core: JournalCore;

beforeAll(async () => {
  database = await createTestDatabase();
  core = await createJournalCore(database);
});
afterAll(() => database?.drop());

/** A journal of its own whose transactions are counted: a change without one took no lock. */
function counted() {
  const count = { transactions: 0 };
  const db = new Proxy(database.db, {
    get(target, property) {
      if (property === "transaction") count.transactions += 1;
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const nobody = () => undefined;
  const journal = createJournal({ db, userVault: core.userVault, feeds: core.feeds, notify: nobody, onWish: nobody, handOver: nobody });
  return { journal, count };
}

const note = ({ append }: Change) => append({ case: "system", value: { subtype: "note", message: "noted" } });

/** The first event of a session brings one of its status along, so that the next is its third. */
async function checkRows(sessionId: string) {
  const rows = await database.db.selectFrom("event").selectAll().where("session_id", "=", sessionId).orderBy("seq").execute();
  const session = await database.db.selectFrom("session").selectAll().where("id", "=", sessionId).executeTakeFirstOrThrow();
  expect(rows.map(({ seq }) => seq)).toEqual(rows.map((_, index) => index + 1));
  let chain: Uint8Array = emptyChain;
  for (const row of rows) {
    chain = chainLink(chain, row.seq, row.payload);
    expect(row.chain.equals(chain)).toBe(true);
  }
  expect([session.last_seq, session.chain.equals(chain)]).toEqual([rows.length, true]);
  return { rows, session };
}

describe("a change without the lock", () => {
  test("takes the lock for the first of a session only, and not at all while nobody else changes it", async () => {
    const sessionId = await core.openSession();
    const { journal, count } = counted();
    for (let times = 0; times < 5; times += 1) await journal.changeOptimistically(sessionId, present, note);
    expect(count.transactions).toBe(1);
    // One under the lock in the same process is known to it.
    await journal.change(sessionId, present, note);
    await journal.changeOptimistically(sessionId, present, note);
    expect(count.transactions).toBe(2);
    await checkRows(sessionId);
  });

  test("sees and leaves the row exactly as one under the lock does", async () => {
    const sessionId = await core.openSession();
    const { journal, count } = counted();
    const seen = async (change: "change" | "changeOptimistically") =>
      journal[change](sessionId, present, ({ session, set }) => {
        const { initial_prompt: _, ...row } = { initial_prompt: null, ...structuredClone(session) };
        set({ turn_acted: !session.turn_acted });
        return row;
      });
    await journal.changeOptimistically(sessionId, present, ({ append, set, now, session }) => {
      append(
        { case: "system", value: { subtype: "note", message: "ä".repeat(5_000) } },
        { runnerSeq: 1, createdAt: new Date(1_700_000_000_123) },
      );
      set({ lease_until: now, usage: { ...session.usage, cost_micros: 5 }, allowed_tools: ["Read"], sdk_session_id: "x" });
    });
    const without = await seen("changeOptimistically");
    expect(count.transactions).toBe(1);
    const under = await seen("change");
    expect({ ...without, turn_acted: true }).toEqual(under);
    const { rows } = await checkRows(sessionId);
    expect(rows[0]).toMatchObject({ runner_seq: 1, epoch: 0, created_at: new Date(1_700_000_000_123) });
  });

  test("is made under the lock after any change of the row by somebody else, with or without an event", async () => {
    const sessionId = await core.openSession();
    const { journal, count } = counted();
    await journal.changeOptimistically(sessionId, present, note);
    const changes = [
      sql`update session set name = name where id = ${sessionId}`,
      sql`update session set turn_acted = true where id = ${sessionId}`,
      sql`update session set epoch = epoch + 1 where id = ${sessionId}`,
    ];
    for (const [index, change] of changes.entries()) {
      await change.execute(database.db);
      const acted = await journal.changeOptimistically(sessionId, present, (made) => [note(made), made.session.epoch]);
      expect([acted, count.transactions]).toEqual([[index + 3, index === 2 ? 1 : 0], index + 2]);
    }
    await core.otherServer().journal.change(sessionId, present, note);
    expect(await journal.changeOptimistically(sessionId, present, note)).toBe(7);
    expect(count.transactions).toBe(5);
    await checkRows(sessionId);
  });

  test("knows no other clock than the database's: one that was put forward or back since is asked for", async () => {
    const sessionId = await core.openSession();
    const { journal, count } = counted();
    await journal.changeOptimistically(sessionId, present, note);
    const clock = performance.now.bind(performance);
    for (const [index, offMs] of [3_600_000, -3_600_000, 7_500, 0].entries()) {
      vi.spyOn(performance, "now").mockImplementation(() => clock() + offMs);
      const now = await journal.changeOptimistically(sessionId, present, (change) => {
        note(change);
        return change.now;
      });
      const { rows } = await sql<{ now: Date }>`select clock_timestamp() as now`.execute(database.db);
      expect(Math.abs(rows[0]!.now.getTime() - now.getTime())).toBeLessThan(5_000);
      expect(count.transactions).toBe(index + 2);
    }
    vi.restoreAllMocks();
    await journal.changeOptimistically(sessionId, present, note);
    expect(count.transactions).toBe(5);
  });

  test("refuses nothing on what it remembers: guard and body are asked again of the row as it is", async () => {
    const sessionId = await core.openSession();
    const { journal } = counted();
    await journal.changeOptimistically(sessionId, present, note);
    await sql`update session set epoch = 7 where id = ${sessionId}`.execute(database.db);
    const epochs: number[] = [];
    const ofSeven = journal.changeOptimistically(
      sessionId,
      (row) => {
        epochs.push(present(row).epoch);
        if (row?.epoch !== 7) throw new Error("fenced");
        return row;
      },
      note,
    );
    expect([await ofSeven, epochs]).toEqual([3, [0, 7]]);
    await expect(journal.changeOptimistically(sessionId, present, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
    // Nothing of an attempt that asked for the transaction stays.
    const value = await journal.changeOptimistically(sessionId, present, async (change) => {
      const seq = note(change);
      const { rows } = await sql<{ one: number }>`select 1 as one`.execute(change.tx);
      return [seq, rows[0]?.one];
    });
    expect(value).toEqual([4, 1]);
    await checkRows(sessionId);
  });

  test("leaves its commands too, for the runner of this process and in the table", async () => {
    const sessionId = await core.openSession();
    const handed: number[] = [];
    const nobody = () => undefined;
    const journal = createJournal({
      db: database.db,
      userVault: core.userVault,
      feeds: core.feeds,
      notify: nobody,
      onWish: nobody,
      handOver: (_session, commands) => handed.push(...commands.map(({ id }) => id)),
    });
    for (let times = 0; times < 3; times += 1)
      await journal.changeOptimistically(sessionId, present, ({ command }) => command({ case: "interrupt", value: { turn: 1 } }));
    const rows = await database.db.selectFrom("command").select("id").where("session_id", "=", sessionId).orderBy("id").execute();
    expect([handed, rows.map(({ id }) => id)]).toEqual([
      [1, 2, 3],
      [1, 2, 3],
    ]);
  });
});

describe("a runner that reports through two servers, while people write through both", () => {
  test("leaves a dense log with an unbroken chain, each report once and in order, and every prompt once", async () => {
    const sessionId = await core.openSession();
    const runner = await core.attach(sessionId);
    const other = core.otherServer();
    const clients = [runner.client, other.clientWith(() => runner.leaseToken)];
    const report = (first: number, count: number, client = clients[first % 2]!) => {
      const events = Array.from({ length: count }, (_, index) => said(`r${first + index}`));
      return client.reportEvents({ sessionId, epoch: runner.epoch, firstRunnerSeq: first, events });
    };
    const reports = (async () => {
      for (let first = 1; first <= 100; first += 2) {
        // Sometimes sent to both at once, as after an answer that was lost.
        const sent = first % 5 === 0 ? clients.map((client) => report(first, 2, client)) : [report(first, 2, clients[(first >> 3) % 2])];
        for (const { lastRunnerSeq } of await Promise.all(sent)) expect(lastRunnerSeq).toBe(first + 1);
      }
    })();
    const people = Array.from({ length: 30 }, async (_, index) => {
      const journal = index % 2 === 0 ? core.journal : other.journal;
      await journal.change(sessionId, present, (change) => change.set({ name: `name ${index}` }));
      await core.prompt(sessionId, `p${index}`);
      await journal.changeOptimistically(sessionId, present, note);
    });
    await Promise.all([reports, ...people]);
    const { rows, session } = await checkRows(sessionId);
    const runnerSeqs = rows.flatMap(({ runner_seq }) => runner_seq ?? []);
    expect(runnerSeqs).toEqual(Array.from({ length: 100 }, (_, index) => index + 1));
    expect([session.last_runner_seq, session.queued_prompts]).toEqual([100, 29]);
    const events = await core.reader.events(await core.reader.session(core.ownerId, sessionId), 0, 1_000);
    const of = (kind: string) => events.filter(({ payload }) => payload?.kind.case === kind).length;
    expect([of("assistant"), of("user"), of("system")]).toEqual([100, 30, 30]);
  });

  test("is refused by both once another runner has the session, also by the one that remembers it as it was", async () => {
    const sessionId = await core.openSession();
    const stale = await core.attach(sessionId);
    const payload = create(EventPayloadSchema, said("x").payload);
    const batch = (firstRunnerSeq: number) => ({
      sessionId,
      epoch: stale.epoch,
      firstRunnerSeq,
      events: [{ createdAtMs: Date.now(), payload }],
    });
    for (const first of [1, 2, 3]) await stale.client.reportEvents(batch(first));
    const fresh = await core.attach(sessionId);
    await expect(stale.client.reportEvents(batch(4))).rejects.toThrow("no longer holds the lease");
    const first = { ...batch(1), epoch: fresh.epoch };
    expect((await fresh.client.reportEvents(first)).lastRunnerSeq).toBe(1);
    expect((await fresh.client.reportEvents(first)).lastRunnerSeq).toBe(1);
    await expect(stale.client.reportEvents(batch(4))).rejects.toThrow("no longer holds the lease");
    await checkRows(sessionId);
  });
});

describe("the stream of a runner's commands", () => {
  async function next(stream: AsyncIterator<WatchCommandsResponse>): Promise<number> {
    for (;;) {
      const { value } = await stream.next();
      if (value.item.case === "command") return value.item.value.id;
    }
  }

  test("is given what this server commits and, once rung, what another does; and ends when another runner has the session", async () => {
    const sessionId = await core.openSession();
    const runner = await core.attach(sessionId);
    await core.prompt(sessionId, "first");
    const stream = runner.client.watchCommands({ sessionId, epoch: runner.epoch })[Symbol.asyncIterator]();
    const interrupt = ({ command }: Change) => command({ case: "interrupt", value: { turn: 1 } });
    const received = [await next(stream)];
    await core.journal.change(sessionId, present, interrupt);
    received.push(await next(stream));
    await core.otherServer().journal.change(sessionId, present, interrupt);
    core.commandStreams.ring(sessionId);
    received.push(await next(stream));
    // Not known to follow what the other server committed unheard: the table is asked.
    await core.otherServer().journal.change(sessionId, present, interrupt);
    await core.journal.change(sessionId, present, interrupt);
    received.push(await next(stream), await next(stream));
    expect(received).toEqual([1, 2, 3, 4, 5]);
    const ended = next(stream);
    await core.journal.change(sessionId, present, ({ session, set }) => set({ epoch: session.epoch + 1 }));
    await expect(ended).rejects.toThrow("no longer holds the lease");
  });
});
