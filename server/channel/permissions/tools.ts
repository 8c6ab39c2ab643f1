import type { JsonObject } from "@bufbuild/protobuf";

/** Tools known by two names: newer agents send the second, people and older documents write the first. */
const renamed: ReadonlyMap<string, string> = new Map([["Task", "Agent"]]);

export function canonicalTool(name: string): string {
  return renamed.get(name) ?? name;
}

/** A person must answer these whatever the rules allow: an approval alone gives the agent nothing. */
export const personTools: ReadonlySet<string> = new Set(["AskUserQuestion"]);

/** What `acceptEdits` approves. */
export const editTools: ReadonlySet<string> = new Set(["Write", "Edit", "NotebookEdit", "MultiEdit"]);

/**
 * What `plan` approves: reading the workspace, and thinking. A sub-agent's own calls come here one by one, so starting it changes
 * nothing; the lists of tasks are the agent's notes; the output of a background command is that of one already approved.
 * Not here: Bash and everything unknown; WebFetch and WebSearch, which carry words of the workspace out to a place the agent chose;
 * MCP tools and resources, whose effects nobody states; ExitPlanMode, because leaving the plan is what a person decides.
 */
export const readingTools: ReadonlySet<string> = new Set([
  ...["Read", "Grep", "Glob", "LS", "NotebookRead", "ToolSearch", "EnterPlanMode", "Agent"],
  ...["TodoRead", "TodoWrite", "TaskCreate", "TaskGet", "TaskList", "TaskUpdate", "TaskOutput", "BashOutput"],
]);

/**
 * The shell text a call would run; undefined for a call that runs none, "unreadable" where there should be one and is not.
 * `Monitor` runs one as well: it is its own tool for approval, but denials of Bash hold for it.
 */
export function shellTextOf(toolName: string, input: JsonObject): { command: string } | "unreadable" | undefined {
  if (toolName !== "Bash" && toolName !== "Monitor") return undefined;
  const command = input["command"];
  if (typeof command === "string") return { command };
  return toolName === "Monitor" && command === undefined ? undefined : "unreadable";
}
