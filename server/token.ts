/** `npm run --silent token -- --email you@example.com`: a token of the built-in issuer on stdout, nothing else. */
import { Command, InvalidArgumentError, Option } from "commander";
import { ConfigError, readConfig } from "./config.ts";
import { IssuerKeyError } from "./identity/issuer-key.ts";
import { readLocalIssuer } from "./identity/local-issuer.ts";

type TokenOptions = { email: string; ttl: number; operator: boolean };

const EXIT_SETUP_PROBLEM = 78;
const MILLISECONDS: Record<string, number> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const MAX_TTL_MS = 366 * 86_400_000;

const command = new Command("token")
  .description("Prints a token of the built-in issuer: whoever has it is signed in as this person until it expires.")
  .requiredOption("--email <address>", "who the token signs in")
  .addOption(new Option("--ttl <duration>", "how long it is valid: 90s, 15m, 1h, 7d").argParser(parseTtl).default(MILLISECONDS.h, "1h"))
  .option("--operator", "the person runs this installation", false)
  .addHelpText("after", "\nThe issuer's key is the one in CARREL_DATA_DIR (default ./.carrel).")
  .allowExcessArguments(false)
  .action(printToken);

async function printToken({ email, ttl, operator }: TokenOptions): Promise<void> {
  const issuer = await readLocalIssuer(readConfig().dataDirectory);
  process.stdout.write(`${await issuer.issueToken({ email, ttlMs: ttl, operator })}\n`);
}

function parseTtl(text: string): number {
  const [, count, unit] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
  const ttl = Number(count) * (MILLISECONDS[unit ?? ""] ?? Number.NaN);
  if (ttl >= 1_000 && ttl <= MAX_TTL_MS) return ttl;
  throw new InvalidArgumentError("It must be from 1s to 366d.");
}

try {
  await command.parseAsync();
} catch (error) {
  process.stderr.write(`error: ${error instanceof Error ? error.message : String(error)}\n`);
  const isSetup = error instanceof IssuerKeyError || error instanceof ConfigError;
  process.exitCode = isSetup ? EXIT_SETUP_PROBLEM : 1;
}
