import { readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, type Watcher, watch } from "../support/watcher.ts";

let installation: Installation;
let app: App;
let person: Person;
const watchers: Watcher[] = [];

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, CARREL_STANDBY_SANDBOXES: "0", CARREL_SNAPSHOTS_KEPT: "1" });
  app = await startApp(installation);
  person = await signUp(installation, app.url, "incremental@example.com");
});
afterEach(async () => {
  for (const watcher of watchers.splice(0)) await watcher.stop();
});
afterAll(async () => {
  await app?.close();
  await installation?.remove();
});

/** A session that can be told to run commands. */
type Shell = { sessionId: string; watcher: Watcher; run(command: string): Promise<string> };

/** @param asking whether somebody has to allow each command. */
function follow(sessionId: string, asking = false): Shell {
  const watcher = watch(person, sessionId);
  watchers.push(watcher);
  return {
    sessionId,
    watcher,
    async run(command) {
      const from = watcher.events.length;
      await person.channel.sendPrompt({ sessionId, text: `[[tool Bash ${JSON.stringify({ command })}]]` });
      if (asking) {
        const { toolUseId } = await watcher.untilKind("toolApprovalRequest", () => true, 60_000, from);
        await person.channel.answerApproval({ sessionId, toolUseId, approved: true });
      }
      await watcher.untilKind("result", () => true, 60_000, from);
      return JSON.stringify(ofKind(watcher.events.slice(from), "toolResult").map(({ content }) => content));
    },
  };
}

async function putAway({ sessionId }: Shell): Promise<void> {
  await person.sessions.hibernateSession({ sessionId });
  await expect
    .poll(async () => (await person.sessions.getSession({ sessionId })).session!.detail, { timeout: 30_000 })
    .toBe(SessionDetail.DORMANT);
}

const snapshotsOf = (sessionId: string) =>
  installation.database.db.selectFrom("snapshot").selectAll().where("session_id", "=", sessionId).orderBy("generation").execute();

const fileOf = ({ archive }: { archive: string }) => join(installation.environment["CARREL_DATA_DIR"]!, "blobs/snapshots", `${archive}@`);

/** All there is to know of the workspace. What is locked shows how, and is opened while its content is looked at. */
const list = [
  "{ stat -c '%a %n' locked closed; chmod 600 locked; chmod 700 closed",
  "/usr/bin/find . -mindepth 1 -path ./.memory -prune -o -printf '%p %y %m %T@ %l %n %s\\n' | sort",
  "/usr/bin/find . -type f -not -path './.memory/*' -print0 | sort -z | xargs -0 md5sum; } > /tmp/list 2>&1",
  "chmod 000 locked; chmod 100 closed; md5sum < /tmp/list",
].join("; ");

const steps = [
  [
    "mkdir large odd closed && for n in $(seq 25); do head -c 2M /dev/urandom > large/$n; done && ln large/1 first && mkfifo pipe",
    "echo secret > locked && echo inner > closed/inner && truncate -s 20M hollow && echo a > $'odd/two\\nlines'",
    "git init -q . && chmod 000 locked && chmod 100 closed",
  ],
  ["echo more >> large/3 && rm first pipe && mv odd even && git add large/3 && ln -s even odd"],
  ["rm -r large/4 even odd && mkdir odd even && echo b > odd/b && ln large/5 fifth && touch -d 2001-02-03 large/6"],
];

test("a large workspace travels once; then its changes do, through a chain that comes back bit by bit and can be forked anywhere", async () => {
  const shell = follow(await openSession(person));
  const { sessionId } = shell;
  const looks: string[] = [];
  for (const commands of steps) {
    await shell.run(commands.join(" && "));
    looks.push(await shell.run(list));
    await putAway(shell);
    expect(await shell.run(list)).toBe(looks.at(-1));
  }
  await shell.run("echo small >> note; echo written");
  await putAway(shell);
  const snapshots = await snapshotsOf(sessionId);
  // One is to be kept, and needs all before it.
  expect(snapshots.map(({ base_generation }) => base_generation)).toEqual([null, 1, 2, 3]);
  expect(snapshots[0]!.bytes).toBeGreaterThan(50_000_000);
  expect(snapshots[3]!.bytes).toBeLessThan(1_000_000);

  const { forkableSeqs } = await person.sessions.preflightFork({ sessionId });
  expect(forkableSeqs).toEqual(snapshots.map(({ seq }) => seq));
  const { session } = await person.sessions.forkSession({ sessionId, forkAtSeq: forkableSeqs[1]! });
  expect((await snapshotsOf(session!.id)).map(({ base_generation }) => base_generation)).toEqual([null, 1]);
  expect((await person.sessions.preflightFork({ sessionId: session!.id })).forkableSeqs).toEqual([0]);
  expect(await follow(session!.id, true).run(list)).toBe(looks[1]);
  expect(await snapshotsOf(sessionId)).toEqual(snapshots);
}, 180_000);

test("increments that are together more than half of the whole end the chain: nothing before the next one is needed or kept", async () => {
  const shell = follow(await openSession(person));
  for (const name of ["first", "second", "third"]) {
    await shell.run(`head -c ${name === "second" ? "2M" : "1M"} /dev/urandom > ${name}; echo made`);
    await putAway(shell);
  }
  const [last, ...others] = await snapshotsOf(shell.sessionId);
  expect({ base: last!.base_generation, generation: last!.generation, others }).toEqual({ base: null, generation: 3, others: [] });
  const kept = () => readdirSync(join(installation.environment["CARREL_DATA_DIR"]!, "blobs/snapshots", shell.sessionId));
  await expect.poll(kept).toHaveLength(1);
}, 60_000);

test("a chain with a member that is lost or altered is not brought back, whichever it is; with all of them it is", async () => {
  const shell = follow(await openSession(person));
  const { sessionId, watcher } = shell;
  await shell.run("echo first > said; echo written");
  await putAway(shell);
  await shell.run("echo second >> said; echo written");
  await putAway(shell);
  const [whole, increment] = (await snapshotsOf(sessionId)).map(fileOf);
  const failsWith = async (damage: () => void, repair: () => void): Promise<void> => {
    damage();
    const from = watcher.events.length;
    await person.sessions.resumeSession({ sessionId });
    await watcher.untilKind("system", ({ subtype }) => subtype === "resume_failed", 30_000, from);
    repair();
  };
  const bytes = readFileSync(whole!);
  const altered = Buffer.from(bytes);
  altered[altered.length >> 1]! ^= 1;
  await failsWith(
    () => writeFileSync(whole!, altered),
    () => writeFileSync(whole!, bytes),
  );
  await failsWith(
    () => renameSync(increment!, `${increment}.aside`),
    () => renameSync(`${increment}.aside`, increment!),
  );
  expect(await shell.run("cat said")).toContain("first\\nsecond");
}, 60_000);
