import { afterEach, describe, expect, test } from "vitest";
import { ApprovalScope } from "../../../gen/carrel/v1/approval_pb.ts";
import { type FakeCarrel, type FakeOptions, startFakeCarrel } from "./fake-carrel.ts";
import { run, start } from "./terminal.ts";

let fake: FakeCarrel | undefined;
afterEach(async () => {
  await fake?.close();
  fake = undefined;
});

async function server(options?: FakeOptions): Promise<FakeCarrel> {
  fake = await startFakeCarrel(options);
  return fake;
}

describe("chat with nobody at the terminal", () => {
  test("prints the answer and ends after the turn", async () => {
    const { url } = await server();
    const { stdout, stderr, exitCode } = await run({ url, args: ["chat", "hello"] });
    expect(stdout).toBe("user: hello\nassistant: You said: hello\nresult success (1.5 s, 1 round trip, $0.0125)\n");
    expect(stderr).toContain("Started session ses_00000000000000000000000000000001");
    expect(exitCode).toBe(0);
  });

  test("with --quiet prints the answer and nothing else", async () => {
    const { url } = await server();
    expect(await run({ url, args: ["chat", "think", "--quiet"] })).toEqual({ stdout: "Forty-two.\n", stderr: "", exitCode: 0 });
  });

  test("with --json prints one object per event", async () => {
    const { url } = await server();
    const { stdout } = await run({ url, args: ["chat", "hello", "--json"] });
    const lines = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.map(({ type, seq }) => `${String(seq)} ${String(type)}`)).toEqual([
      "1 session_status",
      "2 user",
      "3 turn_start",
      "4 assistant",
      "5 result",
    ]);
    expect(lines[3]).toMatchObject({
      session_id: "ses_00000000000000000000000000000001",
      turn: 2,
      timestamp: "2027-01-15T08:00:04Z",
      payload: { text: "You said: hello" },
    });
  });

  test("denies an approval, says so, and tells the agent", async () => {
    const { url, state } = await server();
    const { stdout, stderr, exitCode } = await run({ url, args: ["chat", "run ls"] });
    expect(state.approvals[0]).toMatchObject({ approved: false, message: "nobody is there to approve it" });
    expect(stderr).toContain("denied Bash (toolu_1): nobody is here to approve it");
    expect(stdout).toContain("assistant: I may not.");
    expect(exitCode).toBe(0);
  });

  test.each([
    ["all", true],
    ["none", false],
  ] as const)("with --approve %s does not ask", async (policy, approved) => {
    const { url, state } = await server();
    await run({ url, args: ["chat", "run ls", "--approve", policy], stdin: "" });
    expect(state.approvals[0]?.approved).toBe(approved);
  });

  test("answers a question by saying that nobody is there", async () => {
    const { url, state } = await server();
    const { exitCode } = await run({ url, args: ["chat", "ask"] });
    expect(state.answers[0]).toMatchObject({ Colour: expect.stringContaining("Nobody is there") });
    expect(exitCode).toBe(0);
  });

  test("a failed turn is a failure", async () => {
    const { url } = await server();
    const { stdout, exitCode } = await run({ url, args: ["chat", "fail"] });
    expect(stdout).toContain("result error_during_execution (1.5 s, 1 round trip, $0.0125): the model is overloaded");
    expect(exitCode).toBe(1);
  });

  test("a session that is parked before the answer is a failure, and nothing more of the script is said to it", async () => {
    const { url } = await server();
    const { stdout, stderr, exitCode } = await run({ url, args: ["chat", "park"], stdin: "hello\n" });
    expect(stdout).toBe("user: park\nsystem[parked]: The session is parked: its sandbox could not be started.\n");
    expect([exitCode, stderr.includes("which goes on")]).toEqual([1, true]);
  });

  test("a session that ends before the answer is a failure", async () => {
    const { url, sessions } = await server();
    const chat = start({ url, args: ["chat", "wait"] });
    await chat.until("Waiting");
    [...sessions.values()][0]?.end(2);
    expect(await chat.exitCode).toBe(1);
    expect(chat.stdout()).toContain("session ended: failed");
  });

  test("goes on through lost connections without saying anything twice", async () => {
    const { url, cutConnections } = await server();
    const chat = start({ url, args: ["chat", "slow"] });
    await chat.until("Started");
    cutConnections();
    expect(await chat.exitCode).toBe(0);
    expect(chat.stdout().match(/Slowly done/g)).toHaveLength(1);
    expect(chat.stdout().match(/user: slow/g)).toHaveLength(1);
  });
});

describe("chat fed by a pipe", () => {
  test("takes each line when its time has come: prompts after turns, answers for approvals", async () => {
    const { url, state } = await server();
    const { stdout, exitCode } = await run({ url, args: ["chat"], stdin: "slow\nrun ls\ny\nhello\n" });
    expect(stdout.split("\n").filter((line) => /^(user|assistant):/.test(line))).toEqual([
      "user: slow",
      "assistant: Slowly done.",
      "user: run ls",
      "assistant: There is a README.",
      "user: hello",
      "assistant: You said: hello",
    ]);
    expect(state.approvals[0]).toMatchObject({ approved: true, approvalScope: ApprovalScope.ONCE });
    expect(exitCode).toBe(0);
  });

  test.each([
    ["y", { approved: true, approvalScope: ApprovalScope.ONCE }],
    ["YES", { approved: true, approvalScope: ApprovalScope.ONCE }],
    ["s", { approved: true, approvalScope: ApprovalScope.SESSION }],
    ["session", { approved: true, approvalScope: ApprovalScope.SESSION }],
    ["n", { approved: false, message: "denied by CLI user" }],
    ["", { approved: false, message: "denied by CLI user" }],
    ["what?", { approved: false, message: "denied by CLI user" }],
  ])("an approval answered %j", async (line, expected) => {
    const { url, state } = await server();
    const { stderr } = await run({ url, args: ["chat", "run ls"], stdin: `${line}\n` });
    expect(state.approvals).toEqual([expect.objectContaining(expected)]);
    expect(stderr).toContain("Approve? [y/n/session]");
  });

  test("questions take numbers, several numbers, and words", async () => {
    const { url, state } = await server();
    const { stderr } = await run({ url, args: ["chat", "ask"], stdin: "2\n1, 3\nbecause I like it\n" });
    expect(state.answers).toEqual([{ Colour: "blue", Days: "Monday, Friday", "Why?": "because I like it" }]);
    expect(stderr).toContain("Which colour?\n  1. red: like roses\n  2. blue\n");
  });

  test("stdin is never taken as the opening prompt", async () => {
    const { url, state } = await server();
    await run({ url, args: ["chat"], stdin: "hello\n" });
    expect(state.created[0]?.initialPrompt).toBe("");
  });

  test("/quit leaves; the session goes on", async () => {
    const { url } = await server();
    const { stderr, stdout, exitCode } = await run({ url, args: ["chat"], stdin: "/quit\nhello\n" });
    expect(stderr).toContain("left ses_00000000000000000000000000000001, which goes on");
    expect(stdout).toBe("");
    expect(exitCode).toBe(0);
  });
});

describe("chat at a terminal", () => {
  test("streams, does not repeat what was typed, and says what is queued", async () => {
    const { url } = await server();
    const chat = start({ url, args: ["chat"], isTerminal: true });
    await chat.until("Started");
    chat.type("wait\n");
    await chat.until("assistant: Waiting");
    chat.type("hello\n");
    await chat.until("queued: 1 goes first");
    chat.type("/interrupt\n");
    await chat.until("result success");
    expect(chat.stdout()).toMatch(/You said: \n?hello\n/);
    chat.type("/nonsense\n");
    await chat.until("no such command: /nonsense");
    chat.type("/quit\n");
    expect(await chat.exitCode).toBe(0);
    expect(chat.stdout()).not.toContain("user");
    expect(chat.stdout()).toContain("assistant: Waiting\n");
  });

  test("Ctrl+C interrupts a turn first and leaves second", async () => {
    const { url, sessions } = await server();
    const chat = start({ url, args: ["chat", "wait"], isTerminal: true });
    await chat.until("Waiting");
    chat.interrupt();
    await chat.until("result interrupted");
    chat.type("wait tea\n");
    await chat.until("Waiting for tea");
    chat.interrupt();
    chat.interrupt();
    expect(await chat.exitCode).toBe(130);
    expect([...sessions.values()][0]?.session.status).toBe(2);
  });

  test("Ctrl+C leaves at once when nothing is under way", async () => {
    const { url } = await server();
    const chat = start({ url, args: ["chat", "hello"], isTerminal: true });
    await chat.until("result success");
    await new Promise((resolve) => setTimeout(resolve, 20));
    chat.interrupt();
    expect(await chat.exitCode).toBe(130);
  });

  test("the end of input does not end the stream", async () => {
    const { url, sessions } = await server();
    const chat = start({ url, args: ["chat", "slow"], isTerminal: true });
    await chat.until("user: slow");
    chat.endInput();
    await chat.until("result success");
    [...sessions.values()][0]?.end(4);
    expect(await chat.exitCode).toBe(0);
    expect(chat.stdout()).toContain("session ended: user_requested");
  });

  test("an approval that somebody else answers is no longer asked", async () => {
    const { url, sessions } = await server();
    const chat = start({ url, args: ["chat", "run ls"], isTerminal: true });
    await chat.until("Approve?");
    [...sessions.values()][0]?.answerApproval({ toolUseId: "toolu_1", approved: true, message: "" } as never);
    await chat.until("result success");
    chat.type("y\n");
    await chat.until("You said: y");
    chat.type("/quit\n");
    await chat.exitCode;
  });

  test("colours are for terminals only and follow NO_COLOR and --no-color", async () => {
    const { url } = await server();
    const coloured = async (args: string[], env: Record<string, string>) => {
      const chat = start({ url, args: ["chat", "hello", ...args], isTerminal: true, env });
      await chat.until("result success");
      chat.type("/quit\n");
      await chat.exitCode;
      return chat.stdout().includes("\u001b[1;36massistant: \u001b[0m");
    };
    expect(await coloured([], { NO_COLOR: "" })).toBe(true);
    expect(await coloured([], { NO_COLOR: "1" })).toBe(false);
    expect(await coloured(["--no-color"], { NO_COLOR: "" })).toBe(false);
  });
});

describe("chat before it starts", () => {
  test("registers a newcomer, and creates nothing without a credential", async () => {
    const { url, state } = await server({ isRegistered: false, hasKey: false });
    const { stderr, stdout, exitCode } = await run({ url, args: ["chat", "hello"] });
    expect(exitCode).toBe(1);
    expect(stdout).toBe("");
    expect(stderr).toContain("carrel auth claude set-key");
    expect(state).toMatchObject({ isRegistered: true, created: [] });
  });

  test("passes its options on", async () => {
    const { url, state } = await server();
    await run({
      url,
      args: [
        "chat",
        "hello",
        "--name",
        "N",
        "--model",
        "m",
        "--permission-mode",
        "plan",
        "--allowed-tools",
        "Bash(git:*, npm:*),Read",
        "--allowed-tools",
        "Edit",
        "--denied-tools",
        "Write",
      ],
    });
    expect(state.created[0]).toMatchObject({
      name: "N",
      model: "m",
      permissionMode: 2,
      allowedTools: ["Bash(git:*, npm:*)", "Read", "Edit"],
      deniedTools: ["Write"],
    });
  });

  test("labels a demo, even with --quiet", async () => {
    const { url } = await server({ demo: true });
    const { stderr } = await run({ url, args: ["chat", "hello", "--quiet"] });
    expect(stderr).toBe("demo: answers come from a scripted model, not from a real one\n");
  });
});

describe("attach", () => {
  const id = "ses_00000000000000000000000000000001";

  test("shows what was said and follows; nobody is answered for", async () => {
    const { url, sessions } = await server();
    await run({ url, args: ["chat", "hello"] });
    const attached = start({ url, args: ["session", "attach", id] });
    await attached.until("--- Live stream ---");
    expect(attached.stdout()).toContain("user: hello\nassistant: You said: hello\n");
    sessions.get(id)?.prompt("run ls");
    await attached.until("approval needed: Bash");
    sessions.get(id)?.end(4);
    expect(await attached.exitCode).toBe(0);
    expect(attached.stderr()).toContain("--- History (5 events) ---");
    expect(attached.stderr()).not.toContain("denied");
  });

  test("without history still asks what is open", async () => {
    const { url, sessions, state } = await server();
    await run({ url, args: ["chat", "hello"] });
    sessions.get(id)?.prompt("run ls");
    const attached = start({ url, args: ["session", "attach", id, "--no-history"], isTerminal: true });
    await attached.until("Approve?");
    expect(attached.stdout()).not.toContain("hello");
    attached.type("y\n");
    await attached.until("There is a README");
    expect(state.approvals[0]?.approved).toBe(true);
    attached.type("/quit\n");
    expect(await attached.exitCode).toBe(0);
  });

  test("read-only passes nothing on, and Ctrl+C leaves", async () => {
    const { url, sessions } = await server();
    await run({ url, args: ["chat", "hello"] });
    const attached = start({ url, args: ["session", "attach", id, "--read-only"], isTerminal: true });
    await attached.until("Live");
    attached.type("hello again\n");
    sessions.get(id)?.prompt("run ls");
    await attached.until("approval needed");
    attached.interrupt();
    expect(await attached.exitCode).toBe(130);
    expect(attached.stderr()).not.toContain("Approve?");
    expect(sessions.get(id)?.log.filter(({ payload }) => payload?.kind.case === "user")).toHaveLength(2);
  });

  test("to an ended session prints its log and ends", async () => {
    const { url, sessions } = await server();
    await run({ url, args: ["chat", "hello"] });
    sessions.get(id)?.end(4);
    const { stdout, exitCode } = await run({ url, args: ["session", "attach", id, "--no-history"] });
    expect(stdout).toContain("You said: hello");
    expect(stdout).toContain("session ended: user_requested");
    expect(exitCode).toBe(0);
  });
});

test("what an agent writes cannot steer the terminal", async () => {
  const { url } = await server();
  const { stdout } = await run({ url, args: ["chat", "evil"] });
  expect(stdout).toContain("assistant: safe red ]0;title bell backspace\nnext\tcolumn esrever\n");
  expect(stdout.replace(/[\n\t]/g, "")).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202e]/);
});
