/** The memory bank as agents have it, from inside real sandboxes. */
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Event } from "../../gen/carrel/v1/event_pb.ts";
import { MemoryService } from "../../gen/carrel/v1/memory_service_pb.ts";
import { ProfileService } from "../../gen/carrel/v1/profile_service_pb.ts";
import { PermissionMode, SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { type Person, signUp } from "../support/person.ts";
import { watch } from "../support/watcher.ts";

let installation: Installation;
let app: App;
let person: Person;
let profiles: ReturnType<typeof clients>["profiles"];
let memories: ReturnType<typeof clients>["memories"];

beforeAll(async () => {
  installation = await createInstallation({ CARREL_LIMIT_PROFILES: "20" });
  app = await startApp(installation);
  person = await signUp(installation, app.url, "memory@example.com");
  ({ profiles, memories } = clients());
});

afterAll(async () => {
  await app?.close();
  await installation?.remove();
});

function clients() {
  const transport = createConnectTransport({
    baseUrl: app.url,
    httpVersion: "2",
    interceptors: [
      (next) => (request) => {
        request.header.set("authorization", `Bearer ${person.token}`);
        return next(request);
      },
    ],
  });
  return { profiles: createClient(ProfileService, transport), memories: createClient(MemoryService, transport) };
}

async function newProfile(name: string): Promise<string> {
  const { profile } = await profiles.createProfile({ profile: { name, permissionMode: PermissionMode.BYPASS_PERMISSIONS } });
  return profile!.id;
}

const bash = (command: string) => `[[tool Bash ${JSON.stringify({ command })}]]`;

async function open(profileId: string, command: string) {
  const { session } = await person.sessions.createSession({ profileId, initialPrompt: bash(command) });
  const watcher = watch(person, session!.id);
  return {
    sessionId: session!.id,
    watcher,
    /** What its commands printed. */
    output: async () => JSON.stringify((await watcher.untilKind("toolResult")).content),
    notice: (subtype: string) => watcher.untilKind("system", (value) => value.subtype === subtype),
    async end() {
      await person.sessions.terminateSession({ sessionId: session!.id });
      await watcher.ended();
    },
  };
}

async function bankOf(profileId: string): Promise<Record<string, string>> {
  const { memories: list } = await memories.listMemories({ profileId });
  return Object.fromEntries(
    await Promise.all(list.map(async ({ path }) => [path, (await memories.getMemory({ profileId, path })).content] as const)),
  );
}

/** `path reason` of every refusal that a session told. */
function refusals(events: readonly Event[]): string[] {
  return events
    .flatMap(({ payload }) =>
      payload?.kind.case === "system" && payload.kind.value.subtype === "memory_refused" ? [payload.kind.value.details!] : [],
    )
    .map(({ path, reason }) => `${String(path)} ${String(reason)}`)
    .sort();
}

test("an agent writes a note in one session, the API shows it, and another session of the profile reads it", async () => {
  const [profileId, other] = [await newProfile("notes"), await newProfile("other notes")];
  const first = await open(profileId, "mkdir -p .memory/project && echo remember-vermilion > .memory/project/note.md");
  expect((await first.notice("memory_synced")).details).toEqual({ created: ["project/note.md"], changed: [], deleted: [] });
  expect(await bankOf(profileId)).toEqual({ "project/note.md": "remember-vermilion\n" });
  const second = await open(profileId, "cat /workspace/.memory/project/note.md; echo more >> .memory/project/note.md; echo x > .memory/x");
  expect(await second.output()).toContain("remember-vermilion");
  expect((await second.notice("memory_synced")).details).toEqual({ created: ["x"], changed: ["project/note.md"], deleted: [] });
  const stranger = await open(other, "ls -A .memory | wc -l");
  expect(await stranger.output()).toContain("0");
  await Promise.all([first.end(), second.end(), stranger.end()]);
  expect(await bankOf(other)).toEqual({});
});

test("what is written just before the end is kept, and a deletion too", async () => {
  const profileId = await newProfile("last words");
  await memories.putMemory({ profileId, path: "gone", entry: { content: "g" } });
  const session = await open(profileId, "rm .memory/gone; echo last > .memory/word");
  await session.output();
  await session.end();
  expect(await bankOf(profileId)).toEqual({ word: "last\n" });
});

test("what was edited by API while no session ran is there at the next start", async () => {
  const profileId = await newProfile("edited");
  const before = await open(profileId, "echo by-agent > .memory/a.md; echo by-agent > .memory/b.md");
  await before.notice("memory_synced");
  await before.end();
  await memories.putMemory({ profileId, path: "a.md", entry: { content: "by-person" } });
  await memories.deleteMemory({ profileId, path: "b.md" });
  const full = "f".repeat(65_536);
  for (let index = 0; index < 79; index += 1) await memories.putMemory({ profileId, path: `full/${index}`, entry: { content: full } });
  const after = await open(profileId, "ls -A .memory; cat .memory/a.md; cat .memory/full/* | wc -c");
  const output = await after.output();
  expect(output).toContain("by-person");
  expect(output).toContain(String(79 * 65_536));
  expect(output).not.toContain("b.md");
  await after.end();
});

const tricks = [
  "cd /workspace/.memory",
  "ln -s /etc/passwd link; mkfifo fifo; echo x > .dot; echo x > ..up; echo x > 'white space'; mkdir -p a/b/c/d/e; echo x > a/b/c/d/e/deep",
  "head -c 66560 /dev/zero | tr '\\0' x > big; printf '\\377' > binary",
  "rm -r dir; ln -s /etc dir; rm kept; ln -s /proc/self/environ kept",
  "chmod 000 shut; chmod 600 closed",
  "echo good > good.md; mkdir sub; echo good > sub/good.md",
].join("; ");

test("what an agent plays from inside is refused with a word, the rest is kept, and no other bank is touched", async () => {
  const [profileId, other] = [await newProfile("tricks"), await newProfile("neighbour")];
  await memories.putMemory({ profileId, path: "dir/inner", entry: { content: "inner" } });
  await memories.putMemory({ profileId, path: "kept", entry: { content: "kept" } });
  await memories.putMemory({ profileId, path: "shut", entry: { content: "shut" } });
  await memories.putMemory({ profileId, path: "closed/inner", entry: { content: "closed" } });
  await memories.putMemory({ profileId: other, path: "mine", entry: { content: "mine" } });
  const session = await open(profileId, tricks);
  expect((await session.notice("memory_synced")).details).toEqual({ created: ["good.md", "sub/good.md"], changed: [], deleted: [] });
  await session.end();
  expect(refusals(session.watcher.events)).toEqual(
    [
      "link not_a_file",
      "fifo not_a_file",
      ".dot invalid_path",
      "..up invalid_path",
      "white space invalid_path",
      "a/b/c/d/e/deep invalid_path",
      "big too_large",
      "binary not_text",
      "dir not_a_file",
      "kept not_a_file",
      "shut not_a_file",
      "closed/inner not_a_file",
    ].sort(),
  );
  expect(await bankOf(profileId)).toEqual({
    "dir/inner": "inner",
    kept: "kept",
    shut: "shut",
    "closed/inner": "closed",
    "good.md": "good\n",
    "sub/good.md": "good\n",
  });
  expect(await bankOf(other)).toEqual({ mine: "mine" });
});

test("the 101st file is refused with a word, and kept once there is room", async () => {
  const profileId = await newProfile("many");
  const session = await open(profileId, "cd /workspace/.memory; for i in $(seq 100 200); do echo $i > f$i; done");
  await session.notice("memory_synced");
  expect((await session.notice("memory_refused")).details).toEqual({ path: "f200", reason: "too_many" });
  expect((await memories.listMemories({ profileId })).memories).toHaveLength(100);
  const from = session.watcher.events.length;
  await person.channel.sendPrompt({ sessionId: session.sessionId, text: bash("rm /workspace/.memory/f100") });
  const synced = await session.watcher.untilKind("system", ({ subtype }) => subtype === "memory_synced", undefined, from);
  expect(synced.details).toEqual({ created: ["f200"], changed: [], deleted: ["f100"] });
  await session.end();
});

test("two sessions of one profile at once lose nothing of each other", async () => {
  const profileId = await newProfile("two");
  const sessions = await Promise.all(
    ["one", "two"].map((who) => open(profileId, `echo ${who} > .memory/${who}; echo ${who} > .memory/both`)),
  );
  for (const session of sessions) await session.output();
  for (const session of sessions) await session.end();
  const bank = await bankOf(profileId);
  expect(bank).toMatchObject({ one: "one\n", two: "two\n" });
  expect(bank["both"]).toMatch(/^(one|two)\n$/);
});

test("what changes in the bank while a session is dormant is there when it comes back", async () => {
  const profileId = await newProfile("dormant");
  const { sessionId, watcher, output, end } = await open(profileId, "echo first > .memory/note.md; echo written");
  expect(await output()).toContain("written");
  await watcher.untilKind("result");
  await person.sessions.hibernateSession({ sessionId });
  await watcher.untilKind("sessionStatus", ({ detail }) => detail === SessionDetail.DORMANT);
  await memories.putMemory({ profileId, path: "note.md", entry: { content: "changed meanwhile" } });
  await person.channel.sendPrompt({ sessionId, text: bash("cat .memory/note.md") });
  await watcher.until(
    ({ payload }) => payload?.kind.case === "toolResult" && JSON.stringify(payload.kind.value.content).includes("changed meanwhile"),
  );
  await end();
});
