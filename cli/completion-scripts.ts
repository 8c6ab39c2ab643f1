import type { WordTable } from "./completion-words.ts";

export const shells = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof shells)[number];

/** A script that completes commands and options from the table, without calling carrel. */
export function scriptFor(shell: Shell, table: WordTable): string {
  return { bash: bashScript, zsh: zshScript, fish: fishScript }[shell](table);
}

function cases(table: WordTable, indent: string): string {
  return table.map(({ path, words }) => `${indent}"${path}") echo "${words.join(" ")}" ;;`).join("\n");
}

// The path is the longest run of command names from the left; options and their values in between do not count.
function bashScript(table: WordTable): string {
  return `_carrel_words() {
  case "$1" in
${cases(table, "    ")}
  esac
}
_carrel() {
  local path="" word next
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) continue ;; esac
    next="\${path:+$path }$word"
    if [ -n "$(_carrel_words "$next")" ]; then path="$next"; fi
  done
  COMPREPLY=($(compgen -W "$(_carrel_words "$path")" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _carrel carrel`;
}

function zshScript(table: WordTable): string {
  return `#compdef carrel
_carrel_words() {
  case "$1" in
${cases(table, "    ")}
  esac
}
_carrel() {
  local carrel_path="" word next
  for word in "\${(@)words[2,CURRENT-1]}"; do
    case "$word" in -*) continue ;; esac
    next="\${carrel_path:+$carrel_path }$word"
    if [ -n "$(_carrel_words "$next")" ]; then carrel_path="$next"; fi
  done
  compadd -- \${=$(_carrel_words "$carrel_path")}
}
compdef _carrel carrel`;
}

function fishScript(table: WordTable): string {
  const branches = table.map(({ path, words }) => `    case '${path}'\n      string split ' ' -- '${words.join(" ")}'`).join("\n");
  return `function __carrel_words
  switch "$argv[1]"
${branches}
  end
end
function __carrel_complete
  set -l path ''
  for word in (commandline -opc)[2..-1]
    string match -q -- '-*' $word; and continue
    set -l next (string trim -- "$path $word")
    test -n "$(__carrel_words $next)"; and set path $next
  end
  __carrel_words $path
end
complete -c carrel -f -a '(__carrel_complete)'`;
}
