// The command line as a program of its own, against a small server of the same contract.
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import packageJson from "../../package.json" with { type: "json" };
import { type FakeOptions, goodToken, startFakeCarrel } from "../unit/cli/fake-carrel.ts";
import { playTranscript, runCarrel, type TranscriptOptions } from "./cli-transcripts.ts";

async function serverAndHome(options: FakeOptions = {}): Promise<TranscriptOptions> {
  const fake = await startFakeCarrel(options);
  const home = mkdtempSync(path.join(tmpdir(), "carrel-cli-"));
  onTestFinished(async () => {
    await fake.close();
    rmSync(home, { recursive: true, force: true });
  });
  return { url: fake.url, home, names: { [goodToken]: "token", [packageJson.version]: "version" } };
}

const transcript = (name: string) => path.join(import.meta.dirname, "transcripts", `${name}.txt`);

describe("transcripts", () => {
  test.each<[string, FakeOptions]>([
    ["sign-in", { hasKey: false, isRegistered: false }],
    ["sessions", {}],
    ["chat", {}],
    ["demo", { demo: true }],
    ["mistakes", {}],
    ["help", {}],
  ])("%s", { timeout: 120_000 }, async (name, options) => {
    const { expected, actual } = await playTranscript(transcript(name), await serverAndHome(options));
    expect(actual).toBe(expected);
  });
});

test("a saved token is readable by its owner only and never goes to another server", async () => {
  const options = await serverAndHome();
  expect(await runCarrel(["login", "--token", goodToken], "", options)).toMatchObject({ exitCode: 0 });
  expect(statSync(path.join(options.home, ".config/carrel/config.json")).mode & 0o777).toBe(0o600);
  const other = await serverAndHome();
  const refused = await runCarrel(["session", "list"], "", { ...options, url: other.url });
  expect(refused).toMatchObject({ exitCode: 1, stderr: expect.stringContaining(`not signed in to ${other.url}`) });
});

test("without a server the message says how to start one", async () => {
  const options = await serverAndHome();
  const { stderr, exitCode } = await runCarrel(["session", "list"], "", {
    ...options,
    url: "http://127.0.0.1:1",
    env: { CARREL_TOKEN: goodToken },
  });
  expect(stderr).toMatch(/^carrel: no answer from http:\/\/127\.0\.0\.1:1: .*\n {2}start the server with: npm start\n/);
  expect(exitCode).toBe(1);
});
