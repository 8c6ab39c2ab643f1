import { ErrorReason } from "../gen/carrel/v1/error_reason_pb.ts";
import { type Carrel, createCarrel, reasonOf } from "../sdk/node.ts";
import { CliFailure, tokenCommand, usageFailure } from "./failures.ts";
import { readSettings } from "./settings.ts";
import type { Surroundings } from "./surroundings.ts";

export const defaultUrl = "http://127.0.0.1:8080";

/** What the command line says about where and who. */
export type GlobalOptions = { url?: string; token?: string; json?: boolean; quiet?: boolean; color?: boolean };

/** Checks a URL of an installation and takes its trailing slash off. */
export function parseUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw usageFailure(`not the URL of a server: ${text}`, `it looks like ${defaultUrl}`);
  }
  return `${url.origin}${url.pathname.replace(/\/+$/, "")}`;
}

/** --url, then CARREL_URL, then what `login` saved, then this machine. */
export async function chooseUrl(surroundings: Surroundings, { url }: GlobalOptions): Promise<string> {
  const given = url ?? surroundings.env["CARREL_URL"];
  if (given) return parseUrl(given);
  return (await readSettings(surroundings))?.url ?? defaultUrl;
}

/** --token, then CARREL_TOKEN, then what `login` saved for this very server: a token is never shown to another. */
export async function chooseToken(surroundings: Surroundings, { token }: GlobalOptions, url: string): Promise<string | undefined> {
  const given = token ?? surroundings.env["CARREL_TOKEN"];
  if (given) return given;
  const saved = await readSettings(surroundings);
  return saved?.url === url ? saved.token : undefined;
}

/** A client with the person's token. Refused when there is none. */
export async function connect(surroundings: Surroundings, options: GlobalOptions, url: string): Promise<Carrel> {
  if ((await chooseToken(surroundings, options, url)) === undefined) {
    throw new CliFailure(`not signed in to ${url}`, ["sign in: carrel login", `get a token on the server's machine: ${tokenCommand}`]);
  }
  // Asked again when the server refuses it: another terminal may have signed in anew.
  return createCarrel({ baseUrl: url, token: () => chooseToken(surroundings, options, url) });
}

/** Makes a call, after registering when that was still to be done. */
export async function registered<T>(carrel: Carrel, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    if (reasonOf(error) !== ErrorReason.NOT_REGISTERED) throw error;
    await carrel.registration.register({});
    return call();
  }
}
