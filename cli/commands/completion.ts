import { Argument, type Command } from "commander";
import { type Shell, scriptFor, shells } from "../completion-scripts.ts";
import { wordTable } from "../completion-words.ts";
import type { CommandContext, Run } from "../program.ts";

const help = `
Examples:
  $ source <(carrel completion bash)
  $ carrel completion zsh > "\${fpath[1]}/_carrel"
  $ carrel completion fish > ~/.config/fish/completions/carrel.fish`;

export function addCompletionCommand(program: Command, run: Run): void {
  program
    .command("completion")
    .description("print what teaches a shell to complete carrel")
    .addArgument(new Argument("<shell>", "which shell").choices([...shells]))
    .addHelpText("after", help)
    .action(run(async ({ output }: CommandContext, shell: Shell) => output.line(scriptFor(shell, wordTable(program)))));
}
