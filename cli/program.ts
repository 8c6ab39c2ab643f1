import { Command, CommanderError } from "commander";
import packageJson from "../package.json" with { type: "json" };
import type { Carrel } from "../sdk/node.ts";
import { addAuthCommands } from "./commands/auth.ts";
import { addChatCommand } from "./commands/chat.ts";
import { addCompletionCommand } from "./commands/completion.ts";
import { addDeregisterCommand } from "./commands/deregister.ts";
import { addLoginCommands } from "./commands/login.ts";
import { addMemoryCommands } from "./commands/memory.ts";
import { addProfileCommands } from "./commands/profile.ts";
import { addSessionCommands } from "./commands/session.ts";
import { chooseUrl, connect, type GlobalOptions } from "./connection.ts";
import { type ExitCode, reportFailure } from "./failures.ts";
import { createOutput, type Output } from "./output.ts";
import type { Surroundings } from "./surroundings.ts";

/** What a command gets. */
export type CommandContext = {
  surroundings: Surroundings;
  output: Output;
  options: GlobalOptions;
  /** Where the server is. */
  url(): Promise<string>;
  /** The client of the person who signed in; refused when nobody has. */
  carrel(): Promise<Carrel>;
};

/** An action ends with its exit code, or with none when all went well. */
type Ended = Promise<ExitCode> | Promise<void>;

type Action<A extends unknown[]> = (context: CommandContext, ...args: A) => Ended;

/** Turns an action into what commander calls: with a context, and with every failure told the same way. */
export type Run = <A extends unknown[]>(action: Action<A>) => (...args: [...A, Command]) => Promise<void>;

const examples = `
Examples:
  $ carrel login --url http://127.0.0.1:8080
  $ carrel auth claude set-key
  $ carrel chat "What does this repository do?"
  $ carrel chat "Summarise README.md" --approve none < /dev/null
  $ carrel session list --status running --json
  $ carrel session attach ses_0123456789abcdef0123456789abcdef
  $ carrel profile create Builder --allowed-tools "Read,Bash(npm:*)"

From a checkout, carrel is npx carrel.
Environment: CARREL_URL, CARREL_TOKEN (instead of carrel login), NO_COLOR, XDG_CONFIG_HOME.
Exit codes: 0 fine, 1 something failed, 2 wrong command line, 130 left by Ctrl+C.`;

/** Runs one command line; never throws. */
export async function runCli(args: readonly string[], surroundings: Surroundings): Promise<ExitCode> {
  let exitCode: ExitCode = 0;
  const run: Run =
    <A extends unknown[]>(action: Action<A>) =>
    async (...all: [...A, Command]) => {
      const command = all.at(-1) as Command;
      // Commander passes arguments, options and the command itself.
      const args = all.slice(0, -1) as unknown as A;
      exitCode = await runAction(surroundings, command.optsWithGlobals<GlobalOptions>(), (context) => action(context, ...args));
    };
  try {
    await createProgram(surroundings, run).parseAsync([...args], { from: "user" });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    return reportFailure(createOutput(surroundings, { json: false, quiet: false, color: true }), error, "");
  }
}

/** The whole command line as commander's tree. */
export function createProgram({ stdout, stderr }: Surroundings, run: Run): Command {
  const program = new Command("carrel")
    .description("Talk to Claude Code sessions of your own Carrel")
    .version(packageJson.version, "-V, --version", "print the version")
    .option("--url <url>", "where the server is")
    .option("--token <token>", "who you are, for this command only")
    .option("--json", "print JSON: one document, or one line per item of a stream")
    .option("-q, --quiet", "print nothing but the answer")
    .option("--no-color", "print without colours")
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({ writeOut: (text) => void stdout.write(text), writeErr: (text) => void stderr.write(text) })
    .showHelpAfterError("(add --help for what is possible)")
    .addHelpText("after", examples)
    .exitOverride();
  addLoginCommands(program, run);
  addAuthCommands(program, run);
  addChatCommand(program, run);
  addSessionCommands(program, run);
  addProfileCommands(program, run);
  addMemoryCommands(program, run);
  addDeregisterCommand(program, run);
  addCompletionCommand(program, run);
  return program;
}

async function runAction(
  surroundings: Surroundings,
  options: GlobalOptions,
  action: (context: CommandContext) => Ended,
): Promise<ExitCode> {
  const output = createOutput(surroundings, { json: options.json ?? false, quiet: options.quiet ?? false, color: options.color ?? true });
  const opened: Carrel[] = [];
  const url = () => chooseUrl(surroundings, options);
  const carrel = async () => {
    const client = await connect(surroundings, options, await url());
    opened.push(client);
    return client;
  };
  try {
    return (await action({ surroundings, output, options, url, carrel })) ?? 0;
  } catch (error) {
    return reportFailure(output, error, await url().catch(() => options.url ?? ""));
  } finally {
    for (const client of opened) client.close();
  }
}
