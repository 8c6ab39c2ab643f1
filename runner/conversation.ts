import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

/** Whether the agent's own record of a conversation is there. It keeps one file for each, below a directory for each workspace. */
export function hasConversation(home: string | undefined, conversation: string): boolean {
  if (!home || !/^[0-9a-f-]{36}$/.test(conversation)) return false;
  const projects = join(home, ".claude", "projects");
  return namesIn(projects).some((project) => existsSync(join(projects, project, `${conversation}.jsonl`)));
}

/** None of what is no directory, or is closed: the agent may have made anything of it. */
function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (["ENOENT", "ENOTDIR", "EACCES"].includes((error as NodeJS.ErrnoException).code ?? "")) return [];
    throw error;
  }
}
