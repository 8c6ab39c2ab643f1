import type { Command } from "commander";
import { type Memory, MemorySchema } from "../../gen/carrel/v1/memory_pb.ts";
import { GetMemoryResponseSchema, PutMemoryResponseSchema } from "../../gen/carrel/v1/memory_service_pb.ts";
import { retrying, toProductJson } from "../../sdk/node.ts";
import { usageFailure } from "../failures.ts";
import { readText } from "../files.ts";
import { printTable, timeOf } from "../output-table.ts";
import { resolveProfile } from "../profiles.ts";
import type { CommandContext, Run } from "../program.ts";

type BankOptions = { profile?: string };
type PutOptions = BankOptions & { content?: string; file?: string };

export function addMemoryCommands(program: Command, run: Run): void {
  const memory = program.command("memory").description("notes that the agents of a profile keep");
  withBank(memory.command("list"))
    .description("list the files, without contents")
    .addHelpText("after", '\nExample:\n  $ carrel memory list --profile "Builder"')
    .action(run(listMemories));
  withBank(memory.command("get"))
    .description("print a file")
    .argument("<path>", "the file, for example notes/build.md")
    .addHelpText("after", "\nExample:\n  $ carrel memory get notes/build.md > build.md")
    .action(run(getMemory));
  withBank(memory.command("put"))
    .description("write a file; running sessions get it at their next start")
    .argument("<path>", "the file")
    .option("--content <text>", "what it is to hold")
    .option("--file <file>", "read that from a file, - for stdin")
    .addHelpText(
      "after",
      "\nExamples:\n  $ carrel memory put notes/build.md --file build.md\n  $ date | carrel memory put today.md --file -",
    )
    .action(run(putMemory));
  withBank(memory.command("delete"))
    .description("remove a file")
    .argument("<path>", "the file")
    .addHelpText("after", "\nExample:\n  $ carrel memory delete notes/build.md")
    .action(run(deleteMemory));
}

function withBank(command: Command): Command {
  return command.option("--profile <profile>", "whose bank, by id or name; without it, the default profile's");
}

async function bankOf(context: CommandContext, { profile }: BankOptions) {
  const carrel = await context.carrel();
  return { memories: carrel.memories, profileId: await resolveProfile(carrel, profile) };
}

async function listMemories(context: CommandContext, options: BankOptions): Promise<void> {
  const { memories: client, profileId } = await bankOf(context, options);
  const { memories } = await client.listMemories({ profileId });
  const { output } = context;
  if (output.json) return output.document({ memories: memories.map((memory) => toProductJson(MemorySchema, memory)) });
  if (memories.length === 0) return output.notice("nothing is kept there");
  if (output.quiet) return memories.forEach(({ path }) => output.line(path));
  const row = ({ path, size, updatedAt }: Memory) => [path, String(size), timeOf(updatedAt)];
  printTable(output, ["PATH", "BYTES", "CHANGED"], memories.map(row));
}

async function getMemory(context: CommandContext, path: string, options: BankOptions): Promise<void> {
  const { memories, profileId } = await bankOf(context, options);
  const memory = await memories.getMemory({ profileId, path });
  const { output, surroundings } = context;
  if (output.json) return output.document(toProductJson(GetMemoryResponseSchema, memory));
  // Byte for byte into a file or a pipe; on a terminal an agent's text must not steer it.
  if (surroundings.stdout.isTTY) output.line(memory.content);
  else surroundings.stdout.write(memory.content);
}

async function putMemory(context: CommandContext, path: string, { content, file, ...options }: PutOptions): Promise<void> {
  if ((content === undefined) === (file === undefined)) throw usageFailure("give one of --content and --file");
  const text = content ?? (await readText(context.surroundings, file ?? "-"));
  const { memories, profileId } = await bankOf(context, options);
  const put = await retrying(() => memories.putMemory({ profileId, path, entry: { content: text } }));
  const { output } = context;
  if (output.json) return output.document(toProductJson(PutMemoryResponseSchema, put));
  output.notice(put.created ? `Created ${path}` : put.changed ? `Changed ${path}` : `${path} held this already`);
}

async function deleteMemory(context: CommandContext, path: string, options: BankOptions): Promise<void> {
  const { memories, profileId } = await bankOf(context, options);
  const { deleted } = await retrying(() => memories.deleteMemory({ profileId, path }));
  if (context.output.json) return context.output.document({ deleted });
  context.output.notice(deleted ? `Deleted ${path}` : `there was no ${path}`);
}
