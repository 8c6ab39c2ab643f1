import { create, type JsonObject, type MessageInitShape } from "@bufbuild/protobuf";
import type { Command } from "commander";
import { type Profile, ProfileSchema } from "../../gen/carrel/v1/profile_pb.ts";
import { fromProductJson, messageOf, retrying } from "../../sdk/node.ts";
import { registered } from "../connection.ts";
import { CliFailure, usageFailure } from "../failures.ts";
import { fileName, readJson } from "../files.ts";
import { listProfiles, printProfile, printProfiles, resolveProfile } from "../profiles.ts";
import type { CommandContext, Run } from "../program.ts";
import { addRecipeOptions, type RecipeOptions, recipeOf } from "../recipe-options.ts";

type ProfileOptions = RecipeOptions & { file?: string; name?: string; description?: string; default?: boolean; unsetEnv?: string[] };
type CaptureOptions = { description?: string };

const fileHelp = `
A file holds a profile in JSON as carrel profile get --json prints it, tool servers included; options go over it.
Secrets are shown with empty values, and an empty value keeps what is stored.`;

export function addProfileCommands(program: Command, run: Run): void {
  const profile = program.command("profile").alias("profiles").description("recipes that your sessions start from");
  profile
    .command("list")
    .description("list them, oldest first")
    .addHelpText("after", "\nExample:\n  $ carrel profile list --json")
    .action(run(async (context: CommandContext) => printProfiles(context.output, await listProfiles(await context.carrel()))));
  withProfile(profile.command("get"), "show one; of secrets the names").action(run(getProfile));
  const made = profile.command("create").description("make one").argument("[name]", "its name, up to 100 characters");
  withFields(made).addHelpText("after", `${fileHelp}\n\nExamples:\n${createExamples}`).action(run(createProfile));
  const changed = withProfile(profile.command("update"), "change what is named, and nothing else", false).option(
    "--name <name>",
    "another name",
  );
  withFields(changed)
    .option("--unset-env <name>", "variable to remove; repeatable", (name: string, before: string[] = []) => [...before, name])
    .addHelpText("after", `${fileHelp}\n\nExamples:\n${updateExamples}`)
    .action(run(updateProfile));
  withProfile(profile.command("delete"), "remove one, its memory included").action(run(deleteProfile));
  withProfile(profile.command("set-default"), "make it the one that sessions start from").action(run(setDefaultProfile));
  profile
    .command("capture")
    .description("make one of what a session runs with")
    .argument("<session>", "the session's id")
    .argument("<name>", "name of the new profile")
    .option("--description <text>", "what it is for")
    .addHelpText("after", '\nExample:\n  $ carrel profile capture ses_0123456789abcdef0123456789abcdef "Builder"')
    .action(run(captureProfile));
}

const createExamples = `  $ carrel profile create Builder --allowed-tools "Read,Bash(npm:*)" --max-turns 40
  $ carrel profile create --file builder.json
  $ carrel profile get Builder --json | carrel profile create Copy --file -`;

const updateExamples = `  $ carrel profile update Builder --denied-tools "Bash(rm:*)" --env CI=1
  $ carrel profile update Builder --file builder.json`;

function withProfile(command: Command, description: string, example = true): Command {
  command.description(description).argument("<profile>", "its id or its name");
  return example ? command.addHelpText("after", `\nExample:\n  $ carrel profile ${command.name()} Builder`) : command;
}

function withFields(command: Command): Command {
  return addRecipeOptions(
    command.option("--file <file>", "read the profile from a JSON file, - for stdin").option("--description <text>", "what it is for"),
  )
    .option("--no-one-shot", "let a session go on after its first task")
    .option("--default", "make it the default");
}

/** Fields as requests take them, by the names of the contract. */
type Fields = MessageInitShape<typeof ProfileSchema>;

/** What file and options say together, and which fields that are. */
async function fieldsOf(context: CommandContext, options: ProfileOptions): Promise<{ fields: Fields; named: Set<string> }> {
  const { file, name, description } = options;
  const { fields, names } = file === undefined ? { fields: {}, names: [] } : await profileInFile(context, file);
  const said = { ...recipeOf(options), ...(name === undefined ? {} : { name }), ...(description === undefined ? {} : { description }) };
  const all: Fields = { ...fields, ...said, ...(options.default ? { isDefault: true } : {}) };
  const fromOptions = [...Object.keys(said), ...(options.default ? ["isDefault"] : [])];
  return { fields: all, named: new Set([...names, ...fromOptions.map(nameOfField)]) };
}

async function profileInFile({ surroundings }: CommandContext, file: string): Promise<{ fields: Fields; names: string[] }> {
  const read = await readJson(surroundings, file);
  const json = isObject(read) && isObject(read["profile"]) ? read["profile"] : read;
  if (!isObject(json)) throw usageFailure(`${fileName(file)}: a profile is one JSON object`);
  try {
    const { $typeName, ...fields } = fromProductJson(ProfileSchema, json);
    return { fields, names: Object.keys(json) };
  } catch (error) {
    throw usageFailure(`${fileName(file)}: ${messageOf(error)}`);
  }
}

function nameOfField(localName: string): string {
  return ProfileSchema.fields.find((field) => field.localName === localName)?.name ?? localName;
}

async function getProfile(context: CommandContext, text: string): Promise<void> {
  const carrel = await context.carrel();
  const profileId = await resolveProfile(carrel, text);
  printProfile(context.output, shown((await carrel.profiles.getProfile({ profileId })).profile));
}

async function createProfile(context: CommandContext, name: string | undefined, options: ProfileOptions): Promise<void> {
  const carrel = await context.carrel();
  const { fields } = await fieldsOf(context, { ...options, ...(name === undefined ? {} : { name }) });
  // A copy of the default profile is not the default one by that.
  const profile = create(ProfileSchema, { ...fields, isDefault: options.default ?? false });
  const request = { profile, requestId: crypto.randomUUID() };
  tell(context, "Created", (await retrying(() => registered(carrel, () => carrel.profiles.createProfile(request)))).profile);
}

async function updateProfile(context: CommandContext, text: string, options: ProfileOptions): Promise<void> {
  const carrel = await context.carrel();
  const { fields, named } = await fieldsOf(context, options);
  if (named.size === 0 && !options.unsetEnv) throw usageFailure("what should change?", "see carrel profile update --help");
  const profileId = await resolveProfile(carrel, text);
  if ((options.env || options.unsetEnv) && options.file === undefined) {
    const { environment } = shown((await carrel.profiles.getProfile({ profileId })).profile);
    fields.environment = { ...environment, ...options.env };
    named.add("environment");
  }
  for (const name of options.unsetEnv ?? []) delete fields.environment?.[name];
  const request = { profileId, profile: create(ProfileSchema, fields), updateMask: { paths: [...named] } };
  tell(context, "Changed", (await retrying(() => carrel.profiles.updateProfile(request))).profile);
}

async function deleteProfile(context: CommandContext, text: string): Promise<void> {
  const carrel = await context.carrel();
  const profileId = await resolveProfile(carrel, text);
  await retrying(() => carrel.profiles.deleteProfile({ profileId }));
  if (context.output.json) return context.output.document({ deleted: true });
  context.output.notice(`Deleted ${text}`);
}

async function setDefaultProfile(context: CommandContext, text: string): Promise<void> {
  const carrel = await context.carrel();
  const profileId = await resolveProfile(carrel, text);
  const { profile } = await retrying(() => carrel.profiles.setDefaultProfile({ profileId }));
  if (context.output.json) return printProfile(context.output, shown(profile));
  context.output.notice(`Sessions start from ${profile?.name ?? text} now`);
}

async function captureProfile(context: CommandContext, sessionId: string, name: string, { description }: CaptureOptions): Promise<void> {
  const carrel = await context.carrel();
  const request = { sessionId, name, description: description ?? "", requestId: crypto.randomUUID() };
  tell(context, "Created", (await retrying(() => carrel.profiles.captureProfile(request))).profile);
}

function tell({ output }: CommandContext, what: string, profile: Profile | undefined): void {
  if (output.json || !profile) return printProfile(output, shown(profile));
  if (output.quiet) return output.line(profile.id);
  output.notice(`${what} ${profile.name} (${profile.id})`);
}

function shown(profile: Profile | undefined): Profile {
  if (!profile) throw new CliFailure("the server found the profile and did not show it");
  return profile;
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
