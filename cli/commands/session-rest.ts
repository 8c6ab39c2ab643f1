// What is put away and goes on later: hibernation, and forks from it.
import type { Command } from "commander";
import { type Session, SessionSchema } from "../../gen/carrel/v1/session_pb.ts";
import { PreflightForkResponseSchema } from "../../gen/carrel/v1/session_service_pb.ts";
import { toProductJson } from "../../sdk/node.ts";
import { CliFailure } from "../failures.ts";
import { printFacts } from "../output-table.ts";
import type { CommandContext, Run } from "../program.ts";
import { parseCount } from "../recipe-options.ts";
import { checkSessionId } from "./session-id.ts";

type ForkOptions = { name?: string; profileId?: string; prompt?: string; withoutServer?: string[]; at?: number; check?: boolean };

export function addRestCommands(session: Command, run: Run): void {
  const example = "ses_0123456789abcdef0123456789abcdef";
  session
    .command("hibernate")
    .description("put an idle one away: its files and what was said are kept, nothing runs")
    .argument("<id>", "the session")
    .addHelpText("after", `\nThe next prompt brings it back.\n\nExample:\n  $ carrel session hibernate ${example}`)
    .action(run(hibernate));
  session
    .command("resume")
    .description("bring one back without a prompt")
    .argument("<id>", "the session")
    .addHelpText("after", `\nExample:\n  $ carrel session resume ${example}`)
    .action(run(resume));
  session
    .command("fork")
    .description("start another one from where a dormant or ended one was put away")
    .argument("<id>", "the session to go on from")
    .option("--name <name>", "its name")
    .option("--profile-id <id>", "its profile; default: your default profile")
    .option("--prompt <text>", "its first prompt")
    .option("--without-server <name...>", "tool servers of the source that it may lack")
    .option("--at <seq>", "the point to go on from; default: the latest", parseCount)
    .option("--check", "only say whether it can be forked, and at which points")
    .addHelpText(
      "after",
      `\nExamples:\n  $ carrel session fork ${example} --check\n  $ carrel session fork ${example} --prompt "try the other way"`,
    )
    .action(run(fork));
}

async function hibernate(context: CommandContext, id: string): Promise<void> {
  const sessionId = checkSessionId(id);
  const { session } = await (await context.carrel()).sessions.hibernateSession({ sessionId });
  tell(context, session, `Putting ${sessionId} away`);
}

async function resume(context: CommandContext, id: string): Promise<void> {
  const sessionId = checkSessionId(id);
  const { session } = await (await context.carrel()).sessions.resumeSession({ sessionId });
  tell(context, session, `Bringing ${sessionId} back`);
}

async function fork(context: CommandContext, id: string, options: ForkOptions): Promise<void> {
  const sessionId = checkSessionId(id);
  const carrel = await context.carrel();
  if (options.check) return check(context, sessionId, options);
  const { session } = await carrel.sessions.forkSession({
    sessionId,
    name: options.name ?? "",
    profileId: options.profileId ?? "",
    initialPrompt: options.prompt ?? "",
    acknowledgeMissingTools: options.withoutServer ?? [],
    forkAtSeq: options.at ?? 0,
  });
  if (!session) throw new CliFailure("the server made the session and did not show it");
  if (context.output.quiet) return context.output.line(session.id);
  tell(context, session, `Forked ${sessionId} into ${session.id}; talk to it with carrel session attach ${session.id}`);
}

async function check({ output, carrel }: CommandContext, sessionId: string, { profileId = "" }: ForkOptions): Promise<void> {
  const answer = await (await carrel()).sessions.preflightFork({ sessionId, profileId });
  if (output.json) return output.document(toProductJson(PreflightForkResponseSchema, answer));
  printFacts(output, [
    ["can be forked", answer.isForkable ? "yes" : `no: ${answer.isForkableReason}`],
    ["points", answer.forkableSeqs.join(", ")],
    ["name", answer.defaultForkName],
    ["would lack", answer.missingMcps.join(", ")],
  ]);
}

function tell({ output }: CommandContext, session: Session | undefined, sentence: string): void {
  if (output.json && session) output.document({ session: toProductJson(SessionSchema, session) });
  else output.notice(sentence);
}
