import type { Command } from "commander";
import { CancelPromptResponseSchema, type QueuedPrompt, QueuedPromptSchema } from "../../gen/carrel/v1/channel_service_pb.ts";
import { type Carrel, retrying, toProductJson } from "../../sdk/node.ts";
import { printTable, timeOf } from "../output-table.ts";
import { shorten } from "../output-text.ts";
import type { CommandContext, Run } from "../program.ts";
import { parseCount } from "../recipe-options.ts";
import { checkSessionId } from "./session-id.ts";

export function addQueueCommands(session: Command, run: Run): void {
  const queue = session.command("queue").description("prompts that wait for the turn under way");
  queue
    .command("list")
    .description("list them, the next one first")
    .argument("<id>", "the session")
    .addHelpText("after", "\nExample:\n  $ carrel session queue list ses_0123456789abcdef0123456789abcdef")
    .action(run(listQueue));
  queue
    .command("cancel")
    .description("take one back before its turn begins")
    .argument("<id>", "the session")
    .argument("<number>", "the prompt's number in the list", parseCount)
    .addHelpText("after", "\nExample:\n  $ carrel session queue cancel ses_0123456789abcdef0123456789abcdef 12")
    .action(run(cancelPrompt));
}

async function readQueue(carrel: Carrel, sessionId: string): Promise<QueuedPrompt[]> {
  const all: QueuedPrompt[] = [];
  for (;;) {
    const { prompts } = await carrel.channel.listQueuedPrompts({ sessionId, afterSeq: all.at(-1)?.seq ?? 0 });
    if (prompts.length === 0) return all;
    all.push(...prompts);
  }
}

async function listQueue({ output, carrel }: CommandContext, id: string): Promise<void> {
  const prompts = await readQueue(await carrel(), checkSessionId(id));
  if (output.json) return output.document({ prompts: prompts.map((prompt) => toProductJson(QueuedPromptSchema, prompt)) });
  if (prompts.length === 0) return output.notice("no prompt waits");
  if (output.quiet) return prompts.forEach(({ seq }) => output.line(String(seq)));
  const rows = prompts.map(({ seq, createdAt, text }) => [String(seq), timeOf(createdAt), shorten(text, 80)]);
  printTable(output, ["NUMBER", "SENT", "PROMPT"], rows);
}

async function cancelPrompt({ output, carrel }: CommandContext, id: string, seq: number): Promise<void> {
  const { channel } = await carrel();
  const canceled = await retrying(() => channel.cancelPrompt({ sessionId: checkSessionId(id), seq }));
  if (output.json) return output.document(toProductJson(CancelPromptResponseSchema, canceled));
  output.notice(`Prompt ${seq} will not begin`);
}
