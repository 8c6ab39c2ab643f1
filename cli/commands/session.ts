import { type Command, InvalidArgumentError, Option } from "commander";
import { EventSchema } from "../../gen/carrel/v1/event_pb.ts";
import { type Session, SessionSchema, type SessionStatus, SessionStatusSchema } from "../../gen/carrel/v1/session_pb.ts";
import { ListSessionsResponseSchema } from "../../gen/carrel/v1/session_service_pb.ts";
import { type Carrel, toProductJson, valueOfWord, wordsOf } from "../../sdk/node.ts";
import { type ApprovePolicy, attach } from "../attach.ts";
import { CliFailure, type ExitCode, usageFailure } from "../failures.ts";
import { eventLine, renderEvent } from "../output-events.ts";
import { listedSession, printSession, printSessions } from "../output-session.ts";
import type { CommandContext, Run } from "../program.ts";
import { parseCount } from "../recipe-options.ts";
import { approveOption } from "./chat.ts";
import { checkSessionId } from "./session-id.ts";
import { addQueueCommands } from "./session-queue.ts";
import { addRestCommands } from "./session-rest.ts";

type IdOption = { id?: string };
type ListOptions = { status?: string; limit?: number; cursor?: string };
type AttachCommandOptions = IdOption & { history: boolean; raw?: boolean; verbose?: boolean; readOnly?: boolean; approve?: ApprovePolicy };
type HistoryOptions = IdOption & { raw?: boolean; verbose?: boolean };

export function addSessionCommands(program: Command, run: Run): void {
  const session = program.command("session").alias("sessions").description("your sessions");
  session
    .command("list")
    .description("list them, newest first")
    .addOption(new Option("--status <status>", "only of this status").argParser(parseStatus))
    .addOption(new Option("--limit <count>", "how many in all; with --cursor, how many per page").argParser(parseCount))
    .option("--cursor <cursor>", 'one page from here, with the cursor of the next ("" is the first)')
    .addHelpText("after", '\nExamples:\n  $ carrel session list --status running\n  $ carrel session list --cursor "" --limit 20 --json')
    .action(run(listSessions));
  withId(session.command("get"), "show one").action(run(getSession));
  withId(session.command("attach"), "follow one and talk to it", "--no-history")
    .option("--no-history", "do not show what was said before")
    .option("--raw", "one JSON line per event, nothing left out")
    .option("--read-only", "watch only")
    .addOption(approveOption())
    .option("-v, --verbose", "show everything, with full times")
    .action(run(attachSession));
  withId(session.command("terminate"), "end one for good").action(run(terminateSession));
  withId(session.command("history"), "print what was said and done")
    .option("--raw", "one JSON line per event, nothing left out")
    .option("-v, --verbose", "show everything, with full times")
    .action(run(showHistory));
  session
    .command("rename")
    .description("give one another name")
    .argument("<id>", "the session")
    .argument("<name>", "its name, up to 200 characters")
    .addHelpText("after", '\nExample:\n  $ carrel session rename ses_0123456789abcdef0123456789abcdef "release notes"')
    .action(run(renameSession));
  addQueueCommands(session, run);
  addRestCommands(session, run);
  withId(session.command("delete"), "remove the record of an ended one, with all that was said").action(run(deleteSession));
}

function withId(command: Command, description: string, exampleOption = ""): Command {
  const example = `carrel session ${command.name()} ses_0123456789abcdef0123456789abcdef ${exampleOption}`.trimEnd();
  return command
    .description(description)
    .argument("[id]", "the session")
    .option("--id <id>", "the same, as an option")
    .addHelpText("after", `\nExample:\n  $ ${example}`);
}

function idOf(argument: string | undefined, { id }: IdOption): string {
  if (argument !== undefined && id !== undefined && argument !== id) throw usageFailure("two different sessions are named");
  return checkSessionId(argument ?? id);
}

async function listSessions(context: CommandContext, { status, limit, cursor }: ListOptions): Promise<void> {
  const carrel = await context.carrel();
  const filter = status === undefined ? {} : { status: valueOfWord(SessionStatusSchema, status) as SessionStatus };
  if (cursor === undefined) return printSessions(context.output, await readAllSessions(carrel, filter, limit ?? Infinity));
  const page = await carrel.sessions.listSessions({ ...filter, cursor, limit: limit ?? 0 });
  const shown = { ...page, sessions: page.sessions.map(listedSession) };
  if (context.output.json) return context.output.document(toProductJson(ListSessionsResponseSchema, shown));
  printSessions(context.output, page.sessions);
  if (page.nextCursor !== "") context.output.notice(`next page: --cursor ${page.nextCursor}`);
}

async function readAllSessions(carrel: Carrel, filter: { status?: SessionStatus }, limit: number): Promise<Session[]> {
  const sessions: Session[] = [];
  for await (const session of carrel.allSessions(filter)) {
    sessions.push(session);
    if (sessions.length >= limit) break;
  }
  return sessions;
}

async function fetchSession(carrel: Carrel, sessionId: string): Promise<Session> {
  const { session } = await carrel.sessions.getSession({ sessionId });
  if (!session) throw new CliFailure("the server found the session and did not show it");
  return session;
}

async function getSession(context: CommandContext, argument: string | undefined, options: IdOption): Promise<void> {
  const sessionId = idOf(argument, options);
  printSession(context.output, await fetchSession(await context.carrel(), sessionId));
}

async function attachSession(context: CommandContext, argument: string | undefined, options: AttachCommandOptions): Promise<ExitCode> {
  const sessionId = idOf(argument, options);
  const carrel = await context.carrel();
  return attach(context, carrel, await fetchSession(carrel, sessionId), {
    mode: "attach",
    asked: false,
    approve: options.approve,
    verbose: options.verbose ?? false,
    raw: options.raw ?? false,
    readOnly: options.readOnly ?? false,
    skipHistory: !options.history,
  });
}

async function terminateSession(context: CommandContext, argument: string | undefined, options: IdOption): Promise<void> {
  const sessionId = idOf(argument, options);
  await (await context.carrel()).sessions.terminateSession({ sessionId });
  confirm(context, { terminated: true }, `Terminated ${sessionId}`);
}

async function showHistory(
  context: CommandContext,
  argument: string | undefined,
  { raw, verbose, ...options }: HistoryOptions,
): Promise<void> {
  const sessionId = idOf(argument, options);
  const { output } = context;
  for await (const event of (await context.carrel()).allEvents(sessionId)) {
    if (raw || output.json) output.jsonLine(eventLine(sessionId, toProductJson(EventSchema, event)));
    else renderEvent(event, { verbose: verbose ?? false, quiet: output.quiet })?.print(output);
  }
}

async function renameSession(context: CommandContext, id: string, name: string): Promise<void> {
  const sessionId = checkSessionId(id);
  const { session } = await (await context.carrel()).sessions.renameSession({ sessionId, name });
  if (context.output.json && session) return context.output.document({ session: toProductJson(SessionSchema, session) });
  context.output.notice(`Renamed ${sessionId} to ${session?.name ?? name}`);
}

async function deleteSession(context: CommandContext, argument: string | undefined, options: IdOption): Promise<void> {
  const sessionId = idOf(argument, options);
  await (await context.carrel()).sessions.deleteSessionRecord({ sessionId });
  confirm(context, { deleted: true }, `Deleted the record of ${sessionId}`);
}

function confirm({ output }: CommandContext, json: Record<string, boolean>, sentence: string): void {
  if (output.json) output.document(json);
  else output.notice(sentence);
}

function parseStatus(text: string): string {
  if (valueOfWord(SessionStatusSchema, text) === undefined)
    throw new InvalidArgumentError(`It is one of ${wordsOf(SessionStatusSchema).join(", ")}.`);
  return text;
}
