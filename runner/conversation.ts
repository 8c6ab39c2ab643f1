import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

/** Whether the agent's own record of a conversation is there. It keeps one file for each, below a directory for each workspace. */
export function hasConversation(home: string | undefined, conversation: string): boolean {
  if (!home || !/^[0-9a-f-]{36}$/.test(conversation)) return false;
  const projects = join(home, ".claude", "projects");
  if (!existsSync(projects)) return false;
  return readdirSync(projects).some((project) => existsSync(join(projects, project, `${conversation}.jsonl`)));
}
