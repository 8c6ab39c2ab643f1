import type { Word } from "./word.ts";

/**
 * Commands that run a command given to them as words or text. They are commands of their own (a pattern names them like any other),
 * but a pattern that names only them would approve anything, and a denied name behind them is out of sight of the grammar. So:
 * a pattern approves one only if it also names what is run, and where scoped Bash denials exist it falls to a person.
 * Programs with a language of their own (awk, python, make, npm …) are not here: what they do is the sandbox's to bound.
 */
const runners: ReadonlySet<string> = new Set([
  // shells, and builtins that read commands from text, files or arguments
  ...["sh", "bash", "rbash", "dash", "ash", "zsh", "ksh", "mksh", "csh", "tcsh", "fish", "busybox", "toybox"],
  ...[
    "eval",
    "source",
    ".",
    "exec",
    "command",
    "builtin",
    "trap",
    "alias",
    "enable",
    "hash",
    "fc",
    "bind",
    "complete",
    "compgen",
    "coproc",
  ],
  // programs whose arguments are a command
  ...["env", "sudo", "doas", "su", "runuser", "setpriv", "setsid", "chroot", "unshare", "nsenter", "ionice", "taskset", "chrt", "numactl"],
  ...[
    "flock",
    "script",
    "watch",
    "parallel",
    "xargs",
    "strace",
    "ltrace",
    "valgrind",
    "systemd-run",
    "start-stop-daemon",
    "fakeroot",
    "proot",
  ],
  ...[
    "bwrap",
    "firejail",
    "unbuffer",
    "rlwrap",
    "tini",
    "dumb-init",
    "entr",
    "prlimit",
    "cpulimit",
    "setarch",
    "linux32",
    "linux64",
    "pkexec",
    "daemonize",
  ],
]);

/** Looked through by name alone; behind a path they are not (no alias logic), so there they count as runners. */
const wrapperNames: ReadonlySet<string> = new Set(["timeout", "time", "nice", "nohup", "stdbuf", "xargs"]);

const findActions: ReadonlySet<string> = new Set(["-exec", "-execdir", "-ok", "-okdir"]);
const finders: ReadonlySet<string> = new Set(["find", "gfind", "fd", "fdfind"]);
const fdActions: ReadonlySet<string> = new Set(["-x", "-X", "--exec", "--exec-batch"]);

/** Builtins that take names of variables and evaluate a subscript in them: `printf -v 'a[$(rm x)]' y` runs rm. */
const evaluating: ReadonlySet<string> = new Set(["let", "declare", "typeset", "local", "read", "mapfile", "readarray", "unset", "getopts"]);
/** The same by an option only, or an option that runs the rest. */
const evaluatingOptions: ReadonlyMap<string, RegExp> = new Map([
  ["printf", /^-v/],
  ["test", /^-[vR]$/],
  ["[", /^-[vR]$/],
  ["wait", /^-.*p/],
  ["jobs", /^-.*x/],
]);
const exporting: ReadonlySet<string> = new Set(["export", "readonly"]);

/** A reserved word that another command follows at once. */
export const openingKeywords: ReadonlySet<string> = new Set(["!", "if", "then", "elif", "else", "while", "until", "do"]);
/** Reserved words after which no command, or not a plain one, follows. */
export const otherKeywords: ReadonlySet<string> = new Set([
  "fi",
  "for",
  "select",
  "case",
  "esac",
  "done",
  "in",
  "function",
  "{",
  "}",
  "[[",
  "]]",
  "coproc",
]);

export function isShellKeyword(value: string): boolean {
  return openingKeywords.has(value) || otherKeywords.has(value);
}

const arithmeticTests: ReadonlySet<string> = new Set(["-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-v", "-R"]);

/** Whether more may run than the words say, where a stage begins with a reserved word that no plain command follows. */
export function keywordHides(words: readonly Word[]): boolean {
  const keyword = words[0]?.value;
  if (keyword === "fi" || keyword === "done") return words.length > 1;
  // `for x do rm; done` needs no separator before `do`.
  if (keyword === "for") return words.length < 2 || (words.length > 2 && words[2]?.value !== "in");
  // Comparisons of numbers evaluate the values of variables.
  if (keyword === "[[") return words.at(-1)?.value !== "]]" || words.some(({ value }) => arithmeticTests.has(value));
  return true;
}

/** The last part of a path, or the name itself. */
export function baseName(value: string): string {
  return value.slice(value.lastIndexOf("/") + 1);
}

/**
 * How many words a pattern needs to say what this command really runs: undefined when the first word already does.
 * `appended`: more words follow at run time (`xargs`).
 */
export function namedBy(words: readonly Word[], appended: boolean): number | undefined {
  const name = baseName(words[0]?.value ?? "");
  if (finders.has(name)) return namedByFinder(words, appended);
  const behindPath = wrapperNames.has(name) && words[0]?.value !== name;
  if (!runners.has(name) && !behindPath) return undefined;
  // `command -v name` only looks a name up.
  if (name === "command" && words[1]?.fixed === true && /^-[vV]+$/.test(words[1].value)) return undefined;
  const operand = words.findIndex((word, index) => index > 0 && !(word.fixed && (word.value.startsWith("-") || word.value.includes("="))));
  return operand < 0 ? words.length + 1 : operand + 1;
}

function namedByFinder(words: readonly Word[], appended: boolean): number | undefined {
  const action = words.findIndex((word) => findActions.has(word.value) || fdActions.has(word.value));
  if (action >= 0) return action + 2;
  // Words from elsewhere can bring an action with them. A parameter in double quotes can too.
  return appended || words.some((word) => !word.fixed && word.value.includes("$")) ? words.length + 1 : undefined;
}

/** Why a builtin with these arguments may run more than it says, if so. */
export function evaluates(words: readonly Word[]): string | undefined {
  const name = words[0]?.value ?? "";
  if (evaluating.has(name) && words.length > 1) return `${name} evaluates its arguments`;
  const option = evaluatingOptions.get(name);
  if (option && words.some((word, index) => index > 0 && option.test(word.value))) return `${name} evaluates its arguments`;
  if (exporting.has(name) && words.some((word, index) => index > 0 && isSteeringArgument(word))) return `${name} changes what commands run`;
  return undefined;
}

function isSteeringArgument(word: Word): boolean {
  const equals = word.value.indexOf("=");
  if (equals < 0) return !word.fixed;
  return word.assigns === undefined || steersCommands(word.assigns);
}

// Variables by which a caller chooses the program, a library, a start-up file or options of what is then run.
const steeringNames: ReadonlySet<string> = new Set([
  ...[
    "IFS",
    "ENV",
    "SHELL",
    "HOME",
    "PS4",
    "CC",
    "CXX",
    "LD",
    "AR",
    "AS",
    "NM",
    "CPP",
    "FC",
    "MAKE",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "BROWSER",
    "CLASSPATH",
  ],
  ...[
    "SHELLOPTS",
    "GLOBIGNORE",
    "INPUTRC",
    "POSIXLY_CORRECT",
    "PERL5DB",
    "TERMINFO",
    "TERMCAP",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "KUBECONFIG",
  ],
]);
const steeringStarts =
  /^(?:LD_|DYLD_|BASH|GIT_|npm_config_|NPM_CONFIG_|CARGO_|RUSTC|PERL5|RUBY|GEM_|BUNDLE_|LESS|DOCKER_|KUBE_|SSH_|SUDO_|AWK|GCONV_|XDG_|AWS_|PIP_|UV_|YARN_|PNPM_|PROMPT_)/;
const steeringEnds =
  /(?:PATH|_OPTIONS|_OPTS|OPT|FLAGS|_COMMAND|_CMD|PAGER|EDITOR|_SHELL|_RSH|_ASKPASS|_PRELOAD|_WRAPPER|_HOME|_CONFIG|[A-Z]{2}RC|_PROGRAM|_EXEC|_HOOK|_STARTUP)$/;
const steeringPython = /^PYTHON(?!UNBUFFERED$|DONTWRITEBYTECODE$|IOENCODING$|UTF8$|HASHSEED$)/;

/** Whether setting this variable can change what a command runs. */
export function steersCommands(variable: string): boolean {
  return steeringNames.has(variable) || steeringStarts.test(variable) || steeringEnds.test(variable) || steeringPython.test(variable);
}
