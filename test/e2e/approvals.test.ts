/** Approvals and questions with the real agent: who asks, how far an answer reaches, and what survives. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { ApprovalScope } from "../../gen/carrel/v1/approval_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Event } from "../../gen/carrel/v1/event_pb.ts";
import { PermissionMode } from "../../gen/carrel/v1/session_pb.ts";
import { reasonOf } from "../../sdk/node.ts";
import { type CarrelProcess, createInstallation, type Installation, spawnServer } from "../support/carrel.ts";
import { clientsWith, type Person, signUp } from "../support/person.ts";
import { watch } from "../support/watcher.ts";

let installation: Installation;
let server: CarrelProcess;
let person: Person;

beforeAll(async () => {
  installation = await createInstallation();
  server = await spawnServer(installation);
  person = await signUp(installation, server.url, "approver@example.com");
});

afterAll(async () => {
  server?.kill("SIGTERM");
  await server?.exited;
  await installation?.remove();
});

async function open(initialPrompt: string, permissionMode: PermissionMode = PermissionMode.ACCEPT_EDITS): Promise<string> {
  return (await person.sessions.createSession({ initialPrompt, permissionMode })).session!.id;
}

function requests(events: readonly Event[]) {
  return events.flatMap(({ payload }) => (payload?.kind.case === "toolApprovalRequest" ? [payload.kind.value] : []));
}

test("an answer for the session asks once, and the next like call runs", async () => {
  const sessionId = await open(
    '[[tool Bash {"command":"touch a"}]] [[tool Bash {"command":"touch b"}]] [[tool Bash {"command":"mkdir c"}]]',
  );
  const watcher = watch(person, sessionId);
  const first = await watcher.untilKind("toolApprovalRequest");
  const { pattern } = await person.channel.answerApproval({
    sessionId,
    toolUseId: first.toolUseId,
    approved: true,
    approvalScope: ApprovalScope.SESSION,
  });
  expect(pattern).toBe("Bash(touch:*)");
  const second = await watcher.untilKind("toolApprovalRequest", ({ toolUseId }) => toolUseId !== first.toolUseId);
  expect(second.toolInput).toMatchObject({ command: "mkdir c" });
  await person.channel.answerApproval({ sessionId, toolUseId: second.toolUseId, approved: false, message: "not that directory" });
  const refused = await watcher.untilKind("toolResult", ({ isError }) => isError);
  expect(JSON.stringify(refused.content)).toContain("not that directory");
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
});

test("what a person edited is what ran, and what the log says", async () => {
  const sessionId = await open('[[tool Bash {"command":"touch original"}]]');
  const watcher = watch(person, sessionId);
  const { toolUseId } = await watcher.untilKind("toolApprovalRequest");
  await person.channel.answerApproval({ sessionId, toolUseId, approved: true, updatedInput: { command: "echo edited-$((40+2))" } });
  const resolved = await watcher.untilKind("toolApprovalResolved");
  expect(resolved.updatedInput).toEqual({ command: "echo edited-$((40+2))" });
  expect(JSON.stringify((await watcher.untilKind("toolResult")).content)).toContain("edited-42");
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
});

test("a sub-agent's call asks, and says who asks", async () => {
  const sessionId = await open('[[subagent do this: [[tool Bash {"command":"touch by-sub-agent"}]] ]]', PermissionMode.ACCEPT_EDITS);
  const watcher = watch(person, sessionId);
  const agent = await watcher.untilKind("toolApprovalRequest");
  expect(["Agent", "Task"]).toContain(agent.toolName);
  await person.channel.answerApproval({ sessionId, toolUseId: agent.toolUseId, approved: true });
  const inner = await watcher.untilKind("toolApprovalRequest", ({ toolUseId }) => toolUseId !== agent.toolUseId);
  expect(inner).toMatchObject({ toolName: "Bash", parentToolUseId: agent.toolUseId });
  await person.channel.answerApproval({ sessionId, toolUseId: inner.toolUseId, approved: true });
  expect((await watcher.untilKind("result")).success).toBe(true);
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
});

test("in plan mode nothing changes: writing and commands ask, and what is refused is not done", async () => {
  const sessionId = await open(
    '[[tool Write {"file_path":"/workspace/planned","content":"x"}]] [[tool Bash {"command":"touch planned-too"}]]',
    PermissionMode.PLAN,
  );
  const watcher = watch(person, sessionId);
  const write = await watcher.untilKind("toolApprovalRequest");
  expect(write.toolName).toBe("Write");
  await person.channel.answerApproval({ sessionId, toolUseId: write.toolUseId, approved: false });
  const command = await watcher.untilKind("toolApprovalRequest", ({ toolUseId }) => toolUseId !== write.toolUseId);
  await person.channel.answerApproval({ sessionId, toolUseId: command.toolUseId, approved: false });
  await watcher.untilKind("result");
  // What looks only is in the default profile's list, and runs.
  const from = watcher.events.length;
  await person.channel.sendPrompt({ sessionId, text: '[[tool Bash {"command":"ls -A /workspace"}]]' });
  await watcher.untilKind("result", undefined, 20_000, from);
  expect(requests(watcher.events)).toHaveLength(2);
  const listed = await watcher.untilKind("toolResult", undefined, 1_000, from);
  expect(listed.isError).toBe(false);
  expect(JSON.stringify(listed.content)).not.toContain("planned");
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
});

test("a question waits for a person and its answer reaches the agent", async () => {
  const sessionId = await open("[[ask Which colour? | Vermilion | Teal]]");
  const watcher = watch(person, sessionId);
  const { questionId, questions } = await watcher.untilKind("askUserQuestion");
  expect(questions[0]?.options.map(({ label }) => label)).toEqual(["Vermilion", "Teal"]);
  await expect(person.channel.answerQuestion({ sessionId, questionId, answers: { "What else?": "x" } })).rejects.toThrow(/was not asked/);
  await person.channel.answerQuestion({ sessionId, questionId, answers: { [questions[0]!.question]: "Teal" } });
  expect(JSON.stringify((await watcher.untilKind("toolResult")).content)).toContain("Teal");
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
});

test("of a question with several answers all that were chosen reach the agent, and so do free words", async () => {
  const item = (question: string, header: string) => ({
    question,
    header,
    multiSelect: true,
    options: [
      { label: "Vermilion", description: "red" },
      { label: "Teal", description: "green" },
      { label: "Ochre", description: "yellow" },
    ],
  });
  const input = { questions: [item("Which colours?", "Colours"), item("Which others?", "Others")] };
  const sessionId = await open(`[[tool AskUserQuestion ${JSON.stringify(input)}]]`);
  const watcher = watch(person, sessionId);
  const { questionId, questions } = await watcher.untilKind("askUserQuestion");
  expect(questions.map(({ header, multiSelect }) => [header, multiSelect])).toEqual([
    ["Colours", true],
    ["Others", true],
  ]);
  const { questions: waiting, approvals } = await person.channel.listPending({ sessionId });
  expect([waiting.length, approvals.length, waiting[0]?.expiresAt]).toEqual([1, 0, undefined]);
  const answers = { Colours: "Vermilion, Ochre", "Which others?": "something in between" };
  await person.channel.answerQuestion({ sessionId, questionId, answers });
  expect((await watcher.untilKind("questionResolved")).answers).toEqual(answers);
  const told = JSON.stringify((await watcher.untilKind("toolResult")).content);
  for (const text of ["Vermilion, Ochre", "something in between"]) expect(told).toContain(text);
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
});

test("an interrupt settles what waits", async () => {
  const sessionId = await open('[[tool Bash {"command":"touch z"}]]');
  const watcher = watch(person, sessionId);
  const { toolUseId } = await watcher.untilKind("toolApprovalRequest");
  await person.channel.interrupt({ sessionId });
  expect((await watcher.untilKind("result")).subtype).toBe("interrupted");
  const late = await person.channel.answerApproval({ sessionId, toolUseId, approved: true }).catch((error: unknown) => error);
  expect(reasonOf(late)).toBe(ErrorReason.ALREADY_ANSWERED);
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
});

test("three asked at once survive everybody leaving and the server being killed; of two answers one wins", async () => {
  // Calls that only read are made at the same time; others wait for one another.
  const sessionId = await open('[[tool Bash {"command":"date"}]] [[+tool Bash {"command":"whoami"}]] [[+tool Bash {"command":"uname"}]]');
  const watcher = watch(person, sessionId);
  await expect.poll(() => requests(watcher.events).length, { timeout: 20_000 }).toBe(3);
  await watcher.stop();
  server.kill("SIGKILL");
  await server.exited;
  server = await spawnServer(installation);
  person = clientsWith(server.url, person.token);

  const { approvals } = await person.channel.listPending({ sessionId });
  expect(approvals.map(({ toolInput }) => toolInput?.["command"]).sort()).toEqual(["date", "uname", "whoami"]);
  const answers = await Promise.allSettled(
    approvals.flatMap(({ toolUseId }) =>
      [true, false].map((approved) => person.channel.answerApproval({ sessionId, toolUseId, approved })),
    ),
  );
  expect(answers.filter(({ status }) => status === "fulfilled")).toHaveLength(3);
  const again = watch(person, sessionId);
  expect((await again.untilKind("result", undefined, 30_000)).success).toBe(true);
  await person.sessions.terminateSession({ sessionId });
  await again.ended();
});

test("what a sub-agent asks survives everybody leaving and the server being killed, and it goes on when answered", async () => {
  const sessionId = await open('[[subagent do this: [[tool Bash {"command":"touch by-sub-agent && echo went-on"}]] ]]');
  const watcher = watch(person, sessionId);
  const agent = await watcher.untilKind("toolApprovalRequest");
  await person.channel.answerApproval({ sessionId, toolUseId: agent.toolUseId, approved: true });
  const asked = await watcher.untilKind("toolApprovalRequest", ({ toolUseId }) => toolUseId !== agent.toolUseId);
  await watcher.stop();
  server.kill("SIGKILL");
  await server.exited;
  server = await spawnServer(installation);
  person = clientsWith(server.url, person.token);

  const { session } = await person.sessions.getSession({ sessionId });
  expect(session).toMatchObject({ needsAttention: true, pendingCount: 1 });
  const { approvals } = await person.channel.listPending({ sessionId });
  expect(approvals).toMatchObject([{ toolUseId: asked.toolUseId, parentToolUseId: agent.toolUseId, inputHash: asked.inputHash }]);
  await person.channel.answerApproval({ sessionId, toolUseId: asked.toolUseId, approved: true });
  const again = watch(person, sessionId);
  const result = await again.untilKind("toolResult", ({ toolUseId }) => toolUseId === asked.toolUseId, 30_000);
  expect(JSON.stringify(result.content)).toContain("went-on");
  expect((await again.untilKind("result", undefined, 30_000)).success).toBe(true);
  await person.sessions.terminateSession({ sessionId });
  await again.ended();
});
