import { type Command, Option } from "commander";
import { retrying } from "../../sdk/node.ts";
import { type ApprovePolicy, attach } from "../attach.ts";
import { registered } from "../connection.ts";
import { CliFailure, type ExitCode } from "../failures.ts";
import { profileSelector } from "../profiles.ts";
import type { CommandContext, Run } from "../program.ts";
import { addRecipeOptions, type RecipeOptions, recipeOf } from "../recipe-options.ts";

type ChatOptions = RecipeOptions & {
  name?: string;
  profile?: string;
  approve?: ApprovePolicy;
  verbose?: boolean;
};

const help = `
While it runs: a line is a prompt · /interrupt · /quit · /help · Ctrl+C interrupts the turn, again leaves.
The session goes on after you leave; come back with carrel session attach.

Examples:
  $ carrel chat
  $ carrel chat "Fix the failing test" --profile Builder --allowed-tools "Bash(npm:*),Read"
  $ carrel chat "What is in this directory?" --approve all --quiet < /dev/null > answer.txt`;

export function addChatCommand(program: Command, run: Run): void {
  const chatCommand = program
    .command("chat")
    .description("start a session and talk to it")
    .argument("[prompt]", "what to say first; stdin is never taken for it")
    .option("--name <name>", "display name of the session")
    .option("--profile <profile>", "what to start from, by id or name; options go over it; without it, your default profile");
  addRecipeOptions(chatCommand)
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
  const request = {
    requestId: crypto.randomUUID(),
    name: options.name ?? "",
    initialPrompt: prompt ?? "",
    ...profileSelector(options.profile),
    ...recipeOf(options),
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
