import type { Command } from "commander";
import { createCarrel } from "../../sdk/node.ts";
import { readClaims } from "../claims.ts";
import { chooseUrl, type GlobalOptions, parseUrl } from "../connection.ts";
import { CliFailure, type ExitCode, tokenCommand, usageFailure } from "../failures.ts";
import type { CommandContext, Run } from "../program.ts";
import { readAll, readHidden } from "../prompts.ts";
import { forgetSettings, settingsFile, writeSettings } from "../settings.ts";

type LoginOptions = GlobalOptions & { tokenStdin?: boolean };

const howToGetOne = `
A token says who you are. The server's built-in issuer makes one, on the machine it runs on:
  $ ${tokenCommand}

Examples:
  $ carrel login                                  asks for the token without showing it
  $ ${tokenCommand} | carrel login --token-stdin
  $ carrel login 'http://127.0.0.1:8080/#token=eyJ…'    the link that npm start prints`;

export function addLoginCommands(program: Command, run: Run): void {
  program
    .command("login")
    .description("sign in and remember it")
    .argument("[link]", "the sign-in link that the server prints when it starts")
    .option("--token-stdin", "read the token, or the link, from stdin")
    .addHelpText("after", howToGetOne)
    .action(run(login));
  program.command("logout").description("forget the saved token").addHelpText("after", "\nExample:\n  $ carrel logout").action(run(logout));
}

async function login(context: CommandContext, link: string | undefined): Promise<ExitCode> {
  const given = await readToken(context, link);
  if (given === undefined) return 130;
  const fromLink = parseLink(given);
  const token = fromLink?.token ?? given;
  const url = context.options.url || !fromLink ? await chooseUrl(context.surroundings, context.options) : fromLink.url;
  if (!/^[\x21-\x7e]+$/.test(token)) throw usageFailure("that is not a token", `get one on the server's machine: ${tokenCommand}`);
  const carrel = createCarrel({ baseUrl: url, token });
  try {
    await carrel.registration.register({});
  } finally {
    carrel.close();
  }
  const file = await writeSettings(context.surroundings, { url, token });
  report(context, url, token, file);
  return 0;
}

/** From the argument, --token, CARREL_TOKEN, stdin or the terminal, in this order. Undefined when the person gave up. */
async function readToken({ options, surroundings, output }: CommandContext, link: string | undefined): Promise<string | undefined> {
  const { tokenStdin } = options as LoginOptions;
  if ([link, options.token, tokenStdin].filter(Boolean).length > 1) throw usageFailure("give one of a link, --token and --token-stdin");
  const given = link ?? options.token ?? (tokenStdin ? await readAll(surroundings) : surroundings.env["CARREL_TOKEN"]);
  if (given) return given;
  if (tokenStdin || !surroundings.stdin.isTTY) {
    throw usageFailure(
      tokenStdin ? "there was no token on stdin" : "a token is needed",
      `get one on the server's machine: ${tokenCommand}`,
      "then: carrel login --token-stdin",
    );
  }
  output.notice(`Get a token on the server's machine: ${tokenCommand}`);
  const typed = await readHidden(surroundings, "Token: ");
  if (typed === "") throw new CliFailure("no token was given");
  return typed;
}

/** `<url>/#token=<token>` */
function parseLink(text: string): { url: string; token: string } | undefined {
  const [, address, token] = /^(https?:\/\/[^#]*)#(?:.*&)?token=([^&]+)/.exec(text) ?? [];
  return address && token ? { url: parseUrl(address), token: decodeURIComponent(token) } : undefined;
}

function report({ output }: CommandContext, url: string, token: string, file: string): void {
  const { email, exp } = readClaims(token);
  const expiresAt = exp === undefined ? undefined : new Date(exp * 1000).toISOString();
  if (output.json) return output.document({ url, email: email ?? null, expires_at: expiresAt ?? null });
  output.notice(`Signed in to ${url}${email ? ` as ${email}` : ""}${expiresAt ? `, until ${expiresAt}` : ""}`);
  output.notice(`Saved in ${file}`);
}

async function logout({ surroundings, output }: CommandContext): Promise<void> {
  const known = await forgetSettings(surroundings);
  if (output.json) return output.document({ signed_out: known });
  output.notice(known ? `Forgot the token in ${settingsFile(surroundings)}` : "Nobody was signed in");
}
