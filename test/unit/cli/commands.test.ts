import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { create } from "@bufbuild/protobuf";
import { afterEach, describe, expect, test } from "vitest";
import { type Session, StartPhase, TimedPhaseSchema } from "../../../gen/carrel/v1/session_pb.ts";
import { type FakeCarrel, goodToken, startFakeCarrel } from "./fake-carrel.ts";
import { run, start, temporaryHome } from "./terminal.ts";

let fake: FakeCarrel | undefined;
afterEach(async () => {
  await fake?.close();
  fake = undefined;
});

test("session get shows what each phase of the start took", async () => {
  fake = await startFakeCarrel();
  const { url, sessions } = fake;
  await run({ url, args: ["chat", "hello"] });
  const [{ session }] = [...sessions.values()] as [{ session: Session }, ...unknown[]];
  const phases = [StartPhase.SANDBOX, StartPhase.RUNNER, StartPhase.AGENT];
  session.startPhases = phases.map((phase, index) => create(TimedPhaseSchema, { phase, durationMs: index * 40 }));
  const { stdout } = await run({ url, args: ["session", "get", session.id] });
  expect(stdout).toMatch(/^start took: +sandbox 0 ms, runner 40 ms, agent 80 ms$/m);
});

describe("secrets at a terminal", () => {
  test("login asks without showing the token, and corrects as it is typed", async () => {
    fake = await startFakeCarrel();
    const home = temporaryHome();
    const login = start({ url: fake.url, args: ["login"], isTerminal: true, home, env: { CARREL_TOKEN: "" } });
    await login.until("Token: ");
    login.type(`${goodToken}x`);
    login.type("\u007f\r");
    expect(await login.exitCode).toBe(0);
    expect(login.stdout() + login.stderr()).not.toContain(goodToken);
    expect(login.rawModes).toEqual([true, false]);
    expect(JSON.parse(readFileSync(path.join(home, ".config/carrel/config.json"), "utf8"))).toEqual({ url: fake.url, token: goodToken });
  });

  test("Ctrl+C at the prompt changes nothing and restores the terminal", async () => {
    fake = await startFakeCarrel();
    const setKey = start({ url: fake.url, args: ["auth", "claude", "set-key"], isTerminal: true });
    await setKey.until("Anthropic API key: ");
    setKey.type("sk-ant-new\u0003");
    expect(await setKey.exitCode).toBe(130);
    expect(setKey.rawModes).toEqual([true, false]);
    expect(fake.state.apiKey).toBe("sk-ant-old");
  });

  test("closing the account asks for what only its owner would type", async () => {
    fake = await startFakeCarrel();
    const { url } = fake;
    const asked = (typed: string) => {
      const leaving = start({ url, args: ["deregister"], isTerminal: true });
      return leaving.until("Type deregister to go on: ").then(() => {
        leaving.type(`${typed}\n`);
        return leaving.exitCode;
      });
    };
    expect(await asked("yes")).toBe(1);
    expect(await asked("")).toBe(130);
    expect(fake.state.isRegistered).toBe(true);
    expect(await asked("deregister")).toBe(0);
    expect(fake.state.isRegistered).toBe(false);
  });

  test("a key is taken from the prompt, and a newcomer is registered", async () => {
    fake = await startFakeCarrel({ isRegistered: false });
    const setKey = start({ url: fake.url, args: ["auth", "claude", "set-key"], isTerminal: true });
    await setKey.until("Anthropic API key: ");
    setKey.type("sk-ant-new\n");
    expect(await setKey.exitCode).toBe(0);
    expect(fake.state).toMatchObject({ apiKey: "sk-ant-new", isRegistered: true });
  });
});

test("the token that login saved is the one that is sent", async () => {
  fake = await startFakeCarrel();
  const home = temporaryHome();
  await run({ url: fake.url, args: ["login"], home });
  const list = await run({ url: fake.url, args: ["session", "list", "--json"], home, env: { CARREL_TOKEN: "" } });
  expect(list.exitCode).toBe(0);
});

test("a damaged file of settings is named, not guessed at", async () => {
  fake = await startFakeCarrel();
  const home = temporaryHome();
  await run({ url: fake.url, args: ["login"], home });
  writeFileSync(path.join(home, ".config/carrel/config.json"), "{");
  const { stderr, exitCode } = await run({ url: fake.url, args: ["session", "list"], home, env: { CARREL_TOKEN: "" } });
  expect(stderr).toContain("config.json is not what carrel login wrote");
  expect(exitCode).toBe(1);
});

describe("completion", () => {
  async function complete(...words: string[]): Promise<string[]> {
    const { stdout } = await run({ url: "", args: ["completion", "bash"] });
    const quoted = words.map((word) => `'${word}'`).join(" ");
    const script = `${stdout}\nCOMP_WORDS=(${quoted}); COMP_CWORD=$((\${#COMP_WORDS[@]} - 1)); _carrel; printf '%s\\n' "\${COMPREPLY[@]}"`;
    return execFileSync("bash", ["-c", script], { encoding: "utf8" }).trim().split("\n");
  }

  test("in bash offers commands, sub-commands and options", async () => {
    expect(await complete("carrel", "s")).toEqual(["session"]);
    expect(await complete("carrel", "session", "")).toEqual(
      expect.arrayContaining(["list", "get", "attach", "terminate", "history", "rename", "delete"]),
    );
    expect(await complete("carrel", "--json", "session", "list", "--s")).toEqual(["--status"]);
    expect(await complete("carrel", "auth", "claude", "set-key", "--key")).toEqual(["--key", "--key-from-stdin"]);
    expect(await complete("carrel", "profile", "c")).toEqual(["create", "capture"]);
    expect(await complete("carrel", "chat", "--pro")).toEqual(["--profile"]);
    expect(await complete("carrel", "memory", "put", "--f")).toEqual(["--file"]);
    expect(await complete("carrel", "session", "queue", "")).toEqual(expect.arrayContaining(["list", "cancel"]));
    expect(await complete("carrel", "completion", "")).toEqual(expect.arrayContaining(["bash", "zsh", "fish"]));
  });

  test.each(["bash", "zsh", "fish"])("exists for %s and names every command", async (shell) => {
    const { stdout, exitCode } = await run({ url: "", args: ["completion", shell] });
    expect(exitCode).toBe(0);
    for (const command of [
      "profile set-default",
      "memory put",
      "session queue cancel",
      "login",
      "auth claude set-key",
      "chat",
      "session attach",
    ])
      expect(stdout).toContain(command);
  });

  test("for another shell is a usage error", async () => {
    expect((await run({ url: "", args: ["completion", "tcsh"] })).exitCode).toBe(2);
  });
});
