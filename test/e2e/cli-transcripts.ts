/**
 * Plays transcripts of the command line: text files of steps, each
 *
 *   $ carrel session list --json      the command line (one program, shell-like quotes, no shell)
 *   < a line of its stdin             without any, stdin is empty
 *   > a line of its stdout
 *   ! a line of its stderr
 *   ? 1                               its exit code, when that is not 0
 *
 * Lines that start with # and empty lines are for readers. What differs from run to run is written as a name: {url}, {home},
 * {version}, {session-1} for the first session id that was printed ({session-1} also works in a command), {time},
 * {duration}, {cost}, {profile}, {tool}. UPDATE_TRANSCRIPTS=1 writes what happened into the file instead of comparing it.
 */
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

export type Step = { comment: string[]; command: string; stdin: string[]; stdout: string[]; stderr: string[]; exitCode: number };

export type TranscriptOptions = {
  /** The server's URL, shown as {url}. */
  url: string;
  /** HOME and XDG_CONFIG_HOME of every command, shown as {home}. */
  home: string;
  /** More of the environment. */
  env?: Record<string, string>;
  /** More names: text → name, for example a token → {token}. Also filled in in commands and stdin. */
  names?: Record<string, string>;
};

const root = path.join(import.meta.dirname, "../..");
const sessionId = /ses_[0-9a-f]{32}/g;

/** Runs every step and returns the transcript as it should be and as it was. */
export async function playTranscript(file: string, options: TranscriptOptions): Promise<{ expected: string; actual: string }> {
  const expected = readFileSync(file, "utf8");
  const sessions: string[] = [];
  const steps: Step[] = [];
  for (const step of parseTranscript(expected)) steps.push(await playStep(step, options, sessions));
  const actual = formatTranscript(steps);
  if (process.env["UPDATE_TRANSCRIPTS"]) {
    writeFileSync(file, actual);
    return { expected: actual, actual };
  }
  return { expected: formatTranscript(parseTranscript(expected)), actual };
}

export function parseTranscript(text: string): Step[] {
  const steps: Step[] = [];
  let comment: string[] = [];
  for (const line of text.split("\n")) {
    const step = steps.at(-1);
    const rest = line.slice(2);
    if (line.startsWith("#")) comment.push(line);
    else if (line.startsWith("$ ")) {
      steps.push({ comment, command: rest, stdin: [], stdout: [], stderr: [], exitCode: 0 });
      comment = [];
    } else if (line.trim() === "") continue;
    else if (step && line.startsWith("<")) step.stdin.push(rest);
    else if (step && line.startsWith(">")) step.stdout.push(rest);
    else if (step && line.startsWith("!")) step.stderr.push(rest);
    else if (step && line.startsWith("? ")) step.exitCode = Number(rest);
    else throw new Error(`not a line of a transcript: ${line}`);
  }
  return steps;
}

function formatTranscript(steps: Step[]): string {
  const mark = (sign: string, lines: string[]) => lines.map((line) => `${sign} ${line}`.trimEnd());
  const blocks = steps.map(({ comment, command, stdin, stdout, stderr, exitCode }) =>
    [
      ...comment,
      `$ ${command}`,
      ...mark("<", stdin),
      ...mark(">", stdout),
      ...mark("!", stderr),
      ...(exitCode === 0 ? [] : [`? ${exitCode}`]),
    ].join("\n"),
  );
  return `${blocks.join("\n\n")}\n`;
}

async function playStep(step: Step, options: TranscriptOptions, sessions: string[]): Promise<Step> {
  const fill = (text: string) => fillIn(text, options, sessions);
  const [program, ...args] = splitCommand(step.command).map(fill);
  if (program !== "carrel") throw new Error(`a transcript runs carrel, not ${String(program)}`);
  const { stdout, stderr, exitCode } = await runCarrel(args, step.stdin.map((line) => `${fill(line)}\n`).join(""), options);
  const show = (text: string) => toLines(nameParts(text, options, sessions));
  return { ...step, stdout: show(stdout), stderr: show(stderr), exitCode };
}

/** One command of the real program, as a process of its own. */
export function runCarrel(
  args: string[],
  stdin: string,
  { url, home, env = {} }: TranscriptOptions,
): Promise<{ stdout: string; stderr: string; exitCode: number }> {
  const child = spawn(process.execPath, [path.join(root, "cli/main.ts"), ...args], {
    cwd: home,
    env: { PATH: process.env["PATH"], TZ: "UTC", HOME: home, XDG_CONFIG_HOME: path.join(home, ".config"), CARREL_URL: url, ...env },
  });
  const chunks = { stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => (chunks.stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (chunks.stderr += text));
  // A command that ends without reading its input closes the pipe under us.
  child.stdin.on("error", () => child.stdin.destroy());
  child.stdin.end(stdin);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ ...chunks, exitCode: code ?? (signal === null ? 1 : 128) }));
  });
}

/** Words of a command line; quotes keep spaces. */
function splitCommand(command: string): string[] {
  return Array.from(command.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g), (match) => match[1] ?? match[2] ?? match[3] ?? "");
}

function fillIn(text: string, { url, home, names = {} }: TranscriptOptions, sessions: string[]): string {
  let filled = text.replaceAll("{url}", url).replaceAll("{home}", home);
  for (const [value, name] of Object.entries(names)) filled = filled.replaceAll(`{${name}}`, value);
  return filled.replace(/\{session-(\d+)\}/g, (name, number) => sessions[Number(number) - 1] ?? name);
}

function nameParts(text: string, { url, home, names = {} }: TranscriptOptions, sessions: string[]): string {
  let named = text.replaceAll(url, "{url}").replaceAll(home, "{home}");
  for (const [value, name] of Object.entries(names)) named = named.replaceAll(value, `{${name}}`);
  named = named.replace(sessionId, (id) => {
    if (!sessions.includes(id)) sessions.push(id);
    return `{session-${sessions.indexOf(id) + 1}}`;
  });
  return named
    .replace(/toolu_\w+/g, "{tool}")
    .replace(/prf_[0-9a-f]{32}/g, "{profile}")
    .replace(/\[\d\d:\d\d:\d\d\]/g, "[{time}]")
    .replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, "{time}")
    .replace(/\(\d+\.\d s, (\d+ round trips?), \$\d+\.\d{4}\)/g, "({duration}, $1, {cost})");
}

function toLines(text: string): string[] {
  return text === ""
    ? []
    : text
        .replace(/\n$/, "")
        .split("\n")
        .map((line) => line.trimEnd());
}
