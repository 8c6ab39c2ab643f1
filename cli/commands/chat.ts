import { type Command, Option } from "commander";
import { type PermissionMode, PermissionModeSchema } from "../../gen/carrel/v1/session_pb.ts";
import { retrying, valueOfWord, wordsOf } from "../../sdk/node.ts";
import { type ApprovePolicy, attach } from "../attach.ts";
import { registered } from "../connection.ts";
import { CliFailure, type ExitCode } from "../failures.ts";
import type { CommandContext, Run } from "../program.ts";

type ChatOptions = {
  name?: string;
  model?: string;
  permissionMode?: string;
  allowedTools?: string[];
  deniedTools?: string[];
  approve?: ApprovePolicy;
  verbose?: boolean;
};

const help = `
While it runs: a line is a prompt · /interrupt · /quit · /help · Ctrl+C interrupts the turn, again leaves.
The session goes on after you leave; come back with carrel session attach.

Examples:
  $ carrel chat
  $ carrel chat "Fix the failing test" --allowed-tools "Bash(npm:*),Read"
  $ carrel chat "What is in this directory?" --approve all --quiet < /dev/null > answer.txt`;

export function addChatCommand(program: Command, run: Run): void {
  program
    .command("chat")
    .description("start a session and talk to it")
    .argument("[prompt]", "what to say first; stdin is never taken for it")
    .option("--name <name>", "display name of the session")
    .option("--model <model>", "model name as the provider spells it")
    .addOption(new Option("--permission-mode <mode>", "what runs without asking").choices(wordsOf(PermissionModeSchema)))
    .option("--allowed-tools <patterns>", "calls that run without asking, comma-separated; repeatable", collectPatterns)
    .option("--denied-tools <patterns>", "calls that never run; repeatable", collectPatterns)
    .addOption(approveOption())
    .option("-v, --verbose", "show everything, with full times")
    .addHelpText("after", help)
    .action(run(chat));
}

export function approveOption(): Option {
  return new Option("--approve <which>", "answer every approval without asking").choices(["all", "none"]);
}

async function chat(context: CommandContext, prompt: string | undefined, options: ChatOptions): Promise<ExitCode> {
  const carrel = await context.carrel();
  const { hasCredentials } = await registered(carrel, () => carrel.credentials.getCredentialStatus({}));
  if (!hasCredentials)
    throw new CliFailure("no Anthropic credential is stored, so a session could not work", [
      "store an API key: carrel auth claude set-key",
    ]);
  const mode = valueOfWord(PermissionModeSchema, options.permissionMode ?? "") as PermissionMode | undefined;
  const request = {
    requestId: crypto.randomUUID(),
    name: options.name ?? "",
    model: options.model ?? "",
    initialPrompt: prompt ?? "",
    allowedTools: options.allowedTools ?? [],
    deniedTools: options.deniedTools ?? [],
    ...(mode === undefined ? {} : { permissionMode: mode }),
  };
  const { session } = await retrying(() => carrel.sessions.createSession(request));
  if (!session) throw new CliFailure("the server created a session and did not say which");
  context.output.notice(`Started session ${session.id}`);
  return attach(context, carrel, session, {
    mode: "chat",
    asked: request.initialPrompt !== "",
    approve: options.approve,
    verbose: options.verbose ?? false,
  });
}

/** Commas inside parentheses belong to the pattern: `Bash(git:*),Read`. */
export function collectPatterns(text: string, before: string[] = []): string[] {
  const patterns = text.match(/(?:[^,(]|\([^)]*\)?)+/g) ?? [];
  return [...before, ...patterns.map((pattern) => pattern.trim()).filter((pattern) => pattern !== "")];
}
