import type { Command, Option } from "commander";

/** What may follow each command: its path ("" is the program itself, "session list" a command) and the words. */
export type WordTable = { path: string; words: string[] }[];

export function wordTable(program: Command): WordTable {
  const common = wordsOfOptions(program.options.filter(({ long }) => long !== "--version"));
  const table: WordTable = [];
  const visit = (command: Command, path: string) => {
    const own = path === "" ? ["--version"] : wordsOfOptions(command.options);
    const names = command.commands.map((child) => child.name());
    const choices = command.registeredArguments.flatMap(({ argChoices }) => argChoices ?? []);
    table.push({ path, words: [...names, ...choices, ...own, ...common, "--help"] });
    for (const child of command.commands) visit(child, `${path} ${child.name()}`.trim());
  };
  visit(program, "");
  return table;
}

function wordsOfOptions(options: readonly Option[]): string[] {
  return options.flatMap(({ long }) => (long ? [long] : []));
}
