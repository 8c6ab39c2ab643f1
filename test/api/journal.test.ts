import { create } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EventPayloadSchema } from "../../gen/carrel/v1/event_pb.ts";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import type { App } from "../../server/app.ts";
import { chainLink, emptyChain } from "../../server/journal/seal.ts";
import { createInstallation, type Installation, neighbourOf, startApp } from "../support/carrel.ts";
import { createJournalCore, type JournalCore, said } from "../support/journal-core.ts";
import { checkLog } from "../support/log-checker.ts";
import { clientsWith, openSession, type Person, signUp } from "../support/person.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { destroySandboxes } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { watch } from "../support/watcher.ts";

const reasonOf = (error: unknown) => ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason;

/** The reason a call is refused with; "done" when it is not. */
const outcome = (call: Promise<unknown>) =>
  call.then(
    () => "done",
    (error: unknown) => reasonOf(error) ?? String(error),
  );

/** The same for a client that comes again when it is told to: on a busy machine not everybody gets a connection at once. */
async function patiently(call: () => Promise<unknown>): Promise<string> {
  for (;;) {
    const answer = await outcome(call());
    if (answer !== "UNAVAILABLE") return answer;
  }
}

function tally(outcomes: readonly string[]): Record<string, number> {
  return Object.fromEntries([...new Set(outcomes)].map((one) => [one, outcomes.filter((other) => other === one).length]));
}

describe("many callers at once, through the real server", () => {
  let installation: Installation;
  let app: App;
  /** On the same database. */
  let second: App;

  beforeAll(async () => {
    // The agent is a program that leaves at once: nothing here needs one, and ten would take a minute to start. Few
    // connections, so that work which waits for a second one while it holds a first would be seen.
    installation = await createInstallation({
      ...unlimited,
      CARREL_LIMIT_CONCURRENT_SESSIONS: "10",
      CARREL_STANDBY_SANDBOXES: "0",
      CARREL_CLAUDE_PATH: "/usr/bin/true",
      CARREL_DATABASE_POOL: "3",
    });
    app = await startApp(installation);
    second = await startApp(neighbourOf(installation, "second"));
  });
  afterAll(async () => {
    await second?.close();
    await app?.close();
    await destroySandboxes(installation);
    await installation?.remove();
  });

  async function endAll(person: Person): Promise<void> {
    const { sessions } = await person.sessions.listSessions({ limit: 200 });
    await Promise.all(
      sessions.map(async ({ id }) => {
        const watcher = watch(person, id);
        await person.sessions.terminateSession({ sessionId: id });
        await watcher.ended(40_000);
      }),
    );
  }

  test("of eight people who create at once over three connections, nobody waits for a connection that is never free", async () => {
    const people = await Promise.all(Array.from({ length: 8 }, (_, index) => signUp(installation, app.url, `person${index}@example.com`)));
    const outcomes = await Promise.all(people.map((person) => outcome(person.sessions.createSession({}))));
    expect(tally(outcomes)).toEqual({ done: 8 });
    await Promise.all(people.map(endAll));
  }, 90_000);

  test("of 200 creations on two servers at a cap of 10, exactly 10 succeed and 190 are told of the cap", async () => {
    const email = "many@example.com";
    const person = await signUp(installation, app.url, email);
    const there = clientsWith(second.url, await second.issuer.issueToken({ email, ttlMs: 600_000, operator: false }));
    const outcomes = await Promise.all(
      Array.from({ length: 200 }, (_, index) => patiently(() => (index % 2 === 0 ? person : there).sessions.createSession({}))),
    );
    expect(tally(outcomes)).toEqual({ done: 10, SESSION_LIMIT: 190 });
    expect((await person.sessions.listSessions({ limit: 200 })).sessions).toHaveLength(10);
    await endAll(person);
  }, 90_000);

  test("of 30 creations with one request_id, one session comes, and everybody is given it", async () => {
    const person = await signUp(installation, app.url, "once@example.com");
    const answers = await Promise.all(Array.from({ length: 30 }, () => person.sessions.createSession({ name: "one", requestId: "r" })));
    expect(new Set(answers.map(({ session }) => session?.id)).size).toBe(1);
    expect((await person.sessions.listSessions({})).sessions).toHaveLength(1);
    expect(await outcome(person.sessions.createSession({ name: "two", requestId: "r" }))).toBe("REQUEST_ID_REUSED");
    await endAll(person);
  });

  test("100 prompts with one request_id are one event and equal answers; the same id with another text is refused, without a trace", async () => {
    const person = await signUp(installation, app.url, "prompts@example.com");
    const sessionId = await openSession(person);
    const answers = await Promise.all(
      Array.from({ length: 100 }, () => person.channel.sendPrompt({ sessionId, text: "same", requestId: "p" })),
    );
    expect(new Set(answers.map(({ seq, queued, position }) => `${seq} ${queued} ${position}`)).size).toBe(1);
    const others = await Promise.all(
      Array.from({ length: 20 }, () => outcome(person.channel.sendPrompt({ sessionId, text: "other", requestId: "p" }))),
    );
    expect(tally(others)).toEqual({ REQUEST_ID_REUSED: 20 });
    await checkLog(installation.database.db, person, sessionId, ["p"]);
    await endAll(person);
  });

  test("a call that is refused leaves its request_id free", async () => {
    const person = await signUp(installation, app.url, "free@example.com");
    const sessionId = await openSession(person);
    expect(await outcome(person.channel.sendPrompt({ sessionId: `ses_${"0".repeat(32)}`, text: "x", requestId: "f" }))).toBe("NOT_FOUND");
    expect(await outcome(person.channel.sendPrompt({ sessionId, text: "y", requestId: "f" }))).toBe("done");
    await endAll(person);
  });
});

describe("the log of a session, with the test as its runner", () => {
  let database: TestDatabase;
  let core: JournalCore;

  beforeAll(async () => {
    database = await createTestDatabase();
    core = await createJournalCore(database);
  });
  afterAll(() => database?.drop());

  const rowsOf = (sessionId: string) =>
    database.db.selectFrom("event").selectAll().where("session_id", "=", sessionId).orderBy("seq").execute();

  async function started() {
    const sessionId = await core.openSession();
    const runner = await core.attach(sessionId);
    const append = (first: number, texts: string[], epoch = runner.epoch) =>
      runner.client.reportEvents({ sessionId, epoch, firstRunnerSeq: first, events: texts.map(said) });
    return { sessionId, runner, append };
  }

  const textsOf = async (sessionId: string) => {
    const session = await core.reader.session(core.ownerId, sessionId);
    const events = await core.reader.events(session, 0, 1_000);
    return events.flatMap(({ payload }) => (payload?.kind.case === "assistant" ? [payload.kind.value.blockId] : []));
  };

  test("a batch that is sent again, wholly or in part, adds only what is new; one that leaves a hole is refused with the number that is wanted", async () => {
    const { sessionId, append } = await started();
    expect((await append(1, ["a", "b", "c"])).lastRunnerSeq).toBe(3);
    expect((await append(1, ["a", "b", "c"])).lastRunnerSeq).toBe(3);
    expect((await append(2, ["b", "c", "d", "e"])).lastRunnerSeq).toBe(5);
    expect((await append(3, ["c"])).lastRunnerSeq).toBe(5);
    expect(await outcome(append(7, ["g"]))).toBe("SEQUENCE_GAP");
    expect(ConnectError.from(await append(7, ["g"]).catch((error: unknown) => error)).findDetails(ErrorInfoSchema)[0]?.metadata).toEqual({
      expected: "6",
    });
    expect(await outcome(append(0, ["z"]))).toBe("SEQUENCE_GAP");
    expect((await append(6, ["f"])).lastRunnerSeq).toBe(6);
    expect(await textsOf(sessionId)).toEqual(["a", "b", "c", "d", "e", "f"]);
  });

  test("one batch sent twenty times at once is in the log once", async () => {
    const { sessionId, append } = await started();
    const answers = await Promise.all(Array.from({ length: 20 }, () => append(1, ["a", "b"])));
    expect(new Set(answers.map(({ lastRunnerSeq, lastSeq }) => `${lastRunnerSeq} ${lastSeq}`)).size).toBe(1);
    expect(await textsOf(sessionId)).toEqual(["a", "b"]);
  });

  test("batches that arrive out of order are taken in order, whoever wins", async () => {
    const { sessionId, append } = await started();
    const wanted = Array.from({ length: 30 }, (_, index) => `e${index + 1}`);
    // Each is repeated until it fits, as a runner repeats; the order of arrival is anybody's.
    const fit = async (first: number): Promise<void> => {
      for (;;) if ((await outcome(append(first, wanted.slice(first - 1, first + 2)))) === "done") return;
    };
    await Promise.all([28, 25, 22, 19, 16, 13, 10, 7, 4, 1].map(fit));
    expect(await textsOf(sessionId)).toEqual(wanted);
  });

  test("numbers, people and runners together: 60 prompts and 60 reports at once leave a dense log with an unbroken chain", async () => {
    const { sessionId, append } = await started();
    const reports = (async () => {
      for (let first = 1; first <= 60; first += 1) await append(first, [`r${first}`]);
    })();
    await Promise.all([reports, ...Array.from({ length: 60 }, (_, index) => core.prompt(sessionId, `p${index}`))]);
    const rows = await rowsOf(sessionId);
    expect(rows.map(({ seq }) => seq)).toEqual(rows.map((_, index) => index + 1));
    let chain: Uint8Array = emptyChain;
    for (const row of rows) {
      chain = chainLink(chain, row.seq, row.payload);
      expect(row.chain.equals(chain)).toBe(true);
    }
    const session = await database.db.selectFrom("session").selectAll().where("id", "=", sessionId).executeTakeFirstOrThrow();
    expect([session.last_seq, session.chain.equals(chain), session.queued_prompts]).toEqual([rows.length, true, 59]);
    expect(await textsOf(sessionId)).toHaveLength(60);
  });

  test("a runner of an earlier epoch is refused in everything, with its own lease and with the new one's number", async () => {
    const { sessionId, runner: stale, append } = await started();
    await append(1, ["mine"]);
    const fresh = await core.attach(sessionId);
    expect(fresh.epoch).toBeGreaterThan(stale.epoch);
    const lastSeq = (await rowsOf(sessionId)).length;
    for (const epoch of [stale.epoch, fresh.epoch]) {
      const lease = { sessionId, epoch };
      expect(await outcome(stale.client.reportEvents({ ...lease, firstRunnerSeq: 2, events: [said("zombie")] }))).toBe("FENCED");
      expect(await outcome(stale.client.reportEvents({ ...lease, firstRunnerSeq: 0, events: [] }))).toBe("FENCED");
      expect(await outcome(stale.client.decideTool({ ...lease, toolUseId: "t", toolName: "Bash", input: {} }))).toBe("FENCED");
      expect(await outcome(stale.client.detach({ ...lease, reason: "x", exitCode: 0 }))).toBe("FENCED");
      expect(
        await outcome(
          (async () => {
            for await (const _ of stale.client.watchCommands(lease)) return;
          })(),
        ),
      ).toBe("FENCED");
    }
    expect((await rowsOf(sessionId)).length).toBe(lastSeq);
    expect(core.detached).not.toContain(sessionId);
    // The new one counts from the start, and its first number is not taken for the old one's.
    expect(
      (await fresh.client.reportEvents({ sessionId, epoch: fresh.epoch, firstRunnerSeq: 1, events: [said("new")] })).lastRunnerSeq,
    ).toBe(1);
    expect(await textsOf(sessionId)).toEqual(["mine", "new"]);
  });

  test("a lease is good for its own session only, an attach token once, and nothing else is a lease", async () => {
    const [one, other] = [await started(), await started()];
    expect(
      await outcome(
        one.runner.client.reportEvents({ sessionId: other.sessionId, epoch: other.runner.epoch, firstRunnerSeq: 1, events: [said("x")] }),
      ),
    ).toBe("FENCED");
    for (const token of ["", "clt_guess", "sk-ant-carrel-guess", "eyJhbGciOiJFZERTQSJ9.e30.x"]) {
      expect(
        await outcome(
          core.clientWith(() => token).reportEvents({ sessionId: one.sessionId, epoch: one.runner.epoch, firstRunnerSeq: 1, events: [] }),
        ),
      ).toBe("FENCED");
    }
    expect(await outcome(core.clientWith(() => "").attach({ attachToken: "cat_guess" }))).toBe("FENCED");
  });

  test("a runner may report what an agent says and does, and none of the server's own words", async () => {
    const { sessionId, runner } = await started();
    const forged = [
      { case: "user", value: { text: "I am the user" } },
      { case: "toolApprovalRequest", value: { toolUseId: "t" } },
      { case: "toolApprovalResolved", value: { toolUseId: "t", outcome: 1 } },
      { case: "sessionEnd", value: { reason: 1 } },
      { case: "sessionStatus", value: { status: 3 } },
      { case: "usageDelta", value: { costUsd: -5 } },
      { case: "turnStart", value: { promptSeq: 1 } },
      { case: "questionResolved", value: { questionId: "q" } },
      { case: undefined },
    ] as const;
    for (const kind of forged) {
      const event = { createdAtMs: Date.now(), payload: create(EventPayloadSchema, { kind }) };
      expect([
        kind.case,
        await outcome(runner.client.reportEvents({ sessionId, epoch: runner.epoch, firstRunnerSeq: 1, events: [said("before"), event] })),
      ]).toEqual([kind.case, "INVALID_ARGUMENT"]);
    }
    // Nothing of a refused batch stays, not even what came before the forged event.
    expect(await textsOf(sessionId)).toEqual([]);
  });

  test("times that are none are taken for the present, not for an error of the server", async () => {
    const { sessionId, runner } = await started();
    const times = [Number.NaN, Number.POSITIVE_INFINITY, -1e300, 8.65e15, -1, 0];
    const events = times.map((createdAtMs, index) => ({ ...said(`t${index}`), createdAtMs }));
    expect(await outcome(runner.client.reportEvents({ sessionId, epoch: runner.epoch, firstRunnerSeq: 1, events }))).toBe("done");
    expect(await textsOf(sessionId)).toHaveLength(times.length);
  });

  test("an answer that was given while the session was put away counts once, also when its own call is asked again", async () => {
    const sessionId = await core.openSession();
    const runner = await core.attach(sessionId);
    const ask = (toolUseId: string) =>
      runner.client.decideTool({ sessionId, epoch: runner.epoch, toolUseId, toolName: "Bash", input: { command: "ls" } });
    await ask("t1");
    await database.db.updateTable("session").set({ state: "hibernating" }).where("id", "=", sessionId).execute();
    await core.answer(sessionId, "t1", true, "ada");
    await database.db.updateTable("session").set({ state: "running" }).where("id", "=", sessionId).execute();
    // Whoever asked first is stopped, or about to be; the answer is for the same call asked by the next one.
    expect((await ask("t1")).pending).toBe(true);
    for (const _ of [1, 2]) expect((await ask("t2")).decision).toMatchObject({ toolUseId: "t2", allow: true });
    expect((await ask("t3")).decision).toBeUndefined();
  });

  test("a call of a turn that is over is refused, and nobody is asked", async () => {
    const { sessionId, runner } = await started();
    const { seq: turn } = await core.prompt(sessionId, "go");
    const ask = (toolUseId: string, of: number) =>
      runner.client.decideTool({ sessionId, epoch: runner.epoch, toolUseId, toolName: "Bash", input: { command: "ls" }, turn: of });
    expect((await ask("late", turn - 1)).decision).toMatchObject({ toolUseId: "late", allow: false });
    expect(await database.db.selectFrom("pause").selectAll().where("session_id", "=", sessionId).execute()).toEqual([]);
    for (const of of [turn, 0]) expect((await ask(`call-of-${of}`, of)).pending).toBe(true);
  });

  test("of twenty answers to one approval one wins, and the others are told who was first", async () => {
    const { sessionId, runner } = await started();
    await core.prompt(sessionId, "go");
    await runner.client.decideTool({ sessionId, epoch: runner.epoch, toolUseId: "t1", toolName: "Bash", input: { command: "ls" } });
    // Asked again, as a runner does that was cut: still one question.
    await runner.client.decideTool({ sessionId, epoch: runner.epoch, toolUseId: "t1", toolName: "Bash", input: { command: "ls" } });
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, index) => outcome(core.answer(sessionId, "t1", index % 2 === 0, `person ${index}`))),
    );
    expect(tally(answers)).toEqual({ done: 1, ALREADY_ANSWERED: 19 });
    const session = await core.reader.session(core.ownerId, sessionId);
    const kinds = (await core.reader.events(session, 0, 100)).map(({ payload }) => payload?.kind.case);
    expect(kinds.filter((kind) => kind === "toolApprovalRequest" || kind === "toolApprovalResolved")).toEqual([
      "toolApprovalRequest",
      "toolApprovalResolved",
    ]);
    expect(session.pending_count).toBe(0);
  });
});
