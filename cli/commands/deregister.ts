import type { Command } from "commander";
import { readClaims } from "../claims.ts";
import { chooseToken } from "../connection.ts";
import { CliFailure, type ExitCode, usageFailure } from "../failures.ts";
import type { CommandContext, Run } from "../program.ts";
import { readTyped } from "../prompts.ts";

type DeregisterOptions = { yes?: boolean };

const notes = `
What nobody can bring back: every session with its files and what was said, profiles and their memory, the stored credential.
Asks for your e-mail address first. Signing in again later makes a new, empty account.

Examples:
  $ carrel deregister
  $ carrel deregister --yes --json`;

export function addDeregisterCommand(program: Command, run: Run): void {
  program
    .command("deregister")
    .description("close your account and destroy everything in it")
    .option("--yes", "do not ask")
    .addHelpText("after", notes)
    .action(run(deregister));
}

async function deregister(context: CommandContext, { yes }: DeregisterOptions): Promise<ExitCode> {
  const carrel = await context.carrel();
  if (!yes && !(await confirmed(context))) return 130;
  await carrel.registration.deregister({});
  const { output } = context;
  if (output.json) output.document({ deregistered: true });
  else output.notice("Your account is closed; what was in it cannot be read any more and is being removed");
  return 0;
}

/** False when the person gave up. */
async function confirmed({ surroundings, options, output, url }: CommandContext): Promise<boolean> {
  if (!surroundings.stdin.isTTY) throw usageFailure("nobody is there to confirm it", "say so: carrel deregister --yes");
  const where = await url();
  const email = readClaims((await chooseToken(surroundings, options, where)) ?? "").email;
  const word = email ?? "deregister";
  output.notice(`This destroys everything of ${email ?? "yours"} at ${where}: sessions, files, profiles, memory, credential.`);
  const typed = await readTyped(surroundings, `Type ${word} to go on: `);
  if (typed === undefined || typed === "") return false;
  if (typed !== word) throw new CliFailure("that is something else: nothing was done");
  return true;
}
