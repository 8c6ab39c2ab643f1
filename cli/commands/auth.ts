import { timestampDate } from "@bufbuild/protobuf/wkt";
import type { Command } from "commander";
import { CredentialTypeSchema } from "../../gen/carrel/v1/credential_pb.ts";
import { GetCredentialStatusResponseSchema } from "../../gen/carrel/v1/credential_service_pb.ts";
import { toProductJson, wordOf } from "../../sdk/node.ts";
import { registered } from "../connection.ts";
import { type ExitCode, usageFailure } from "../failures.ts";
import type { CommandContext, Run } from "../program.ts";
import { readAll, readHidden } from "../prompts.ts";

type KeyOptions = { key?: string; keyFromStdin?: boolean };

export function addAuthCommands(program: Command, run: Run): void {
  const auth = program.command("auth").description("what your sessions may use");
  const claude = auth.command("claude").description("your Anthropic credential");
  claude
    .command("set-key")
    .description("store an Anthropic API key; the server seals it and never shows it again")
    .option("--key <key>", "the key (visible to others on this machine: prefer the prompt or stdin)")
    .option("--key-from-stdin", "read the key from stdin")
    .addHelpText(
      "after",
      "\nExamples:\n  $ carrel auth claude set-key                     asks without showing it\n  $ carrel auth claude set-key --key-from-stdin < key.txt",
    )
    .action(run(setKey));
  claude
    .command("status")
    .description("say whether a credential is stored")
    .addHelpText("after", "\nExample:\n  $ carrel auth claude status --json")
    .action(run(showStatus));
  claude
    .command("logout")
    .description("remove the stored credential; running sessions lose it at once")
    .addHelpText("after", "\nExample:\n  $ carrel auth claude logout")
    .action(run(removeKey));
}

async function setKey(context: CommandContext, options: KeyOptions): Promise<ExitCode> {
  const carrel = await context.carrel();
  const apiKey = await readKey(context, options);
  if (apiKey === undefined) return 130;
  const { message } = await registered(carrel, () => carrel.credentials.setApiKey({ apiKey }));
  if (context.output.json) context.output.document({ success: true, message });
  else context.output.notice(message || "The key is stored");
  return 0;
}

/** Undefined when the person gave up. */
async function readKey({ surroundings }: CommandContext, { key, keyFromStdin }: KeyOptions): Promise<string | undefined> {
  if (key !== undefined && keyFromStdin) throw usageFailure("give one of --key and --key-from-stdin");
  if (key === undefined && !keyFromStdin && !surroundings.stdin.isTTY)
    throw usageFailure("a key is needed", "pipe it: carrel auth claude set-key --key-from-stdin < key.txt");
  const given = key ?? (keyFromStdin ? await readAll(surroundings) : await readHidden(surroundings, "Anthropic API key: "));
  if (given?.trim() === "") throw usageFailure("the key is empty");
  return given?.trim();
}

async function showStatus(context: CommandContext): Promise<void> {
  const carrel = await context.carrel();
  const status = await registered(carrel, () => carrel.credentials.getCredentialStatus({}));
  const { output } = context;
  if (output.json) return output.document(toProductJson(GetCredentialStatusResponseSchema, status));
  if (!status.hasCredentials) {
    output.line("no credential is stored");
    return output.notice("store one: carrel auth claude set-key");
  }
  const since = status.createdAt ? `, stored ${timestampDate(status.createdAt).toISOString()}` : "";
  output.line(`${wordOf(CredentialTypeSchema, status.credentialType) || "credential"}${since}`);
}

async function removeKey(context: CommandContext): Promise<void> {
  const carrel = await context.carrel();
  await registered(carrel, () => carrel.credentials.deleteCredential({}));
  if (context.output.json) return context.output.document({ success: true });
  context.output.notice("No credential is stored any more");
}
