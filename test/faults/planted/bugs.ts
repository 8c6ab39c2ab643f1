// Bugs that could be made in the server, as one changed text each, and the test that has to fail for each of them. What the
// simulator can see is planted there; here are those of the real queries, stores and sequences.

export type PlantedBug = {
  what: string;
  file: string;
  /** Once in the file. */
  find: string;
  replace: string;
  test: string;
  /** Part of the names of the tests that are run. */
  named: string;
};

const journal = "test/api/journal.test.ts";
const optimistic = "test/api/journal-optimistic.test.ts";
const storage = "test/faults/storage.test.ts";
const blobs = "test/contract/blobs.test.ts";
const sealed = "test/unit/blobs/sealed.test.ts";

export const plantedBugs: readonly PlantedBug[] = [
  {
    what: "a runner of an earlier epoch may write",
    file: "server/runners/rules.ts",
    find: "return session.epoch === epoch && !unmanned",
    replace: "return !unmanned",
    test: journal,
    named: "a runner of an earlier epoch is refused",
  },
  {
    what: "a repeated batch is cut one event too short",
    file: "server/runners/rules.ts",
    find: "lastRunnerSeq + 1 - first)",
    replace: "Math.max(0, lastRunnerSeq - first))",
    test: journal,
    named: "a batch that is sent again",
  },
  {
    what: "what was not written is acknowledged all the same",
    file: "server/journal/journal.ts",
    find: "if (!written) return undefined;\n    known.remember(draft.change.session, written);",
    replace: "if (written) known.remember(draft.change.session, written);",
    test: optimistic,
    named: "is made under the lock after any change of the row",
  },
  {
    what: "a row that somebody else has changed is overwritten",
    file: "server/journal/store.ts",
    find: "xmin = ${version}::xid and ",
    replace: "",
    test: optimistic,
    named: "is made under the lock after any change of the row",
  },
  {
    what: "a session's row is read without its lock",
    file: "server/journal/store.ts",
    find: "return there.forUpdate().executeTakeFirst();",
    replace: "return there.executeTakeFirst();",
    test: journal,
    named: "numbers, people and runners together",
  },
  {
    what: "readers are shown events before their commit",
    file: "server/journal/journal.ts",
    find: "const drawn = await deps.db.transaction().execute(async (tx) => draw(tx, guard(await lockSession(tx, sessionId)), body));\n    publish(drawn.draft);",
    replace:
      "const drawn = await deps.db.transaction().execute(async (tx) => {\n      const early = await draw(tx, guard(await lockSession(tx, sessionId)), body);\n      publish(early.draft);\n      return early;\n    });",
    test: storage,
    named: "each statement, begin and commit among them: before",
  },
  {
    what: "each link of the hash chain begins anew",
    file: "server/journal/draft.ts",
    find: "chain = chainLink(chain, seq, sealed);",
    replace: "chain = chainLink(session.chain, seq, sealed);",
    test: storage,
    named: "without a fault nothing is wrong",
  },
  {
    what: "a request id is good for any content",
    file: "server/sessions/request-ids.ts",
    find: "if (!parameters.equals(",
    replace: "if (parameters.length === 0 && !parameters.equals(",
    test: journal,
    named: "100 prompts with one request_id are one event",
  },
  {
    what: "sessions are counted without the owner's lock",
    file: "server/sessions/create.ts",
    find: "      await lockOwner(tx, ownerId);\n",
    replace: "",
    test: journal,
    named: "of 200 creations on two servers",
  },
  {
    what: "an archive is not read back before it counts",
    file: "server/snapshots/archives.ts",
    find: "for await (const _piece of archives.get(place, digest));",
    replace: "",
    test: storage,
    named: "a snapshot that it did not keep as it was given",
  },
  {
    what: "an archive is removed although its row names it",
    file: "server/snapshots/archives.ts",
    find: "if (!(await isNamed(db, archive))) await",
    replace: "await",
    test: storage,
    named: "without a fault nothing is wrong",
  },
  {
    what: "a session is put away before its snapshot is committed",
    file: "server/runners/snapshots.ts",
    find: "      await point(change, made);\n",
    replace: "",
    test: storage,
    named: "without a fault nothing is wrong",
  },
  {
    what: "a blob is written in place, and half of it may be found",
    file: "server/blobs/local-disk.ts",
    find: "const aside = join(directory, unfinished, randomUUID());",
    replace: "await mkdir(dirname(fileOf(key)), { recursive: true });\n      const aside = fileOf(key);",
    test: blobs,
    named: "local disk",
  },
  {
    what: "the end of an archive is not marked",
    file: "server/blobs/sealed.ts",
    find: '${isLast ? "/last" : ""}',
    replace: "",
    test: sealed,
    named: "wherever it is cut, the end is missed",
  },
  {
    what: "a booking whose answer was lost is booked twice",
    file: "server/broker/ledger.ts",
    find: "          if (booked && isSame(session.usage, booked)) return;\n",
    replace: "",
    test: "test/unit/broker/ledger.test.ts",
    named: "booked",
  },
];
