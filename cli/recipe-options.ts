// The options that a profile and a new session share.
import { type Command, InvalidArgumentError, Option } from "commander";
import { type PermissionMode, PermissionModeSchema } from "../gen/carrel/v1/session_pb.ts";
import { valueOfWord, wordsOf } from "../sdk/node.ts";

export type RecipeOptions = {
  model?: string;
  permissionMode?: string;
  allowedTools?: string[];
  deniedTools?: string[];
  maxTurns?: number;
  maxBudgetUsd?: number;
  oneShot?: boolean;
  ttlSeconds?: number;
  env?: Record<string, string>;
  allowedHosts?: string[];
};

/** What of a recipe the command line names, as fields of both Profile and CreateSessionRequest. */
export type Recipe = {
  model?: string;
  permissionMode?: PermissionMode;
  allowedTools?: string[];
  deniedTools?: string[];
  maxTurns?: number;
  maxBudgetUsd?: number;
  oneShot?: boolean;
  ttlSeconds?: number;
  environment?: Record<string, string>;
  allowedHosts?: string[];
};

export function addRecipeOptions(command: Command): Command {
  return command
    .option("--model <model>", "model name as the provider spells it")
    .addOption(new Option("--permission-mode <mode>", "what runs without asking").choices(wordsOf(PermissionModeSchema)))
    .option("--allowed-tools <patterns>", "calls that run without asking, comma-separated; repeatable", collectPatterns)
    .option("--denied-tools <patterns>", "calls that never run; repeatable", collectPatterns)
    .addOption(new Option("--max-turns <count>", "turns after which a session ends").argParser(parseCount))
    .addOption(new Option("--max-budget-usd <amount>", "USD after which a session ends").argParser(parseAmount))
    .option("--one-shot", "end a session after its first task")
    .addOption(new Option("--ttl-seconds <seconds>", "lifetime of a session").argParser(parseCount))
    .option(
      "--env <name=value>",
      "variable of the agent's environment (secrets: prefer a profile from a file); repeatable",
      collectVariables,
    )
    .option("--allowed-hosts <hosts>", "hosts that the agent may reach, comma-separated; repeatable", collectPatterns);
}

export function recipeOf({ env, permissionMode, ...same }: RecipeOptions): Recipe {
  const mode = valueOfWord(PermissionModeSchema, permissionMode ?? "") as PermissionMode | undefined;
  const { model, allowedTools, deniedTools, maxTurns, maxBudgetUsd, oneShot, ttlSeconds, allowedHosts } = same;
  const recipe = { model, allowedTools, deniedTools, maxTurns, maxBudgetUsd, oneShot, ttlSeconds, allowedHosts };
  const named = Object.entries({ ...recipe, permissionMode: mode, environment: env }).filter(([, value]) => value !== undefined);
  return Object.fromEntries(named) as Recipe;
}

/** Commas inside parentheses belong to the pattern: `Bash(git:*),Read`. */
export function collectPatterns(text: string, before: string[] = []): string[] {
  const patterns = text.match(/(?:[^,(]|\([^)]*\)?)+/g) ?? [];
  return [...before, ...patterns.map((pattern) => pattern.trim()).filter((pattern) => pattern !== "")];
}

/** A value may hold `=`; a name may not. */
function collectVariables(text: string, before: Record<string, string> = {}): Record<string, string> {
  const mark = text.indexOf("=");
  if (mark < 1) throw new InvalidArgumentError("It is NAME=VALUE.");
  return { ...before, [text.slice(0, mark)]: text.slice(mark + 1) };
}

export function parseCount(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError("It is a whole number from 1.");
  return Number(text);
}

function parseAmount(text: string): number {
  if (!/^\d+(\.\d+)?$/.test(text) || Number(text) === 0) throw new InvalidArgumentError("It is a number above 0, for example 2.50.");
  return Number(text);
}
