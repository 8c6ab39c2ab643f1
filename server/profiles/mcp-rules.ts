import { type McpServer, McpTransportSchema } from "../../gen/carrel/v1/mcp_server_pb.ts";
import { wordOf } from "../words.ts";
import { isRefusedName, refusedNameMessage } from "./environment-names.ts";
import { mergeSecrets, type Note } from "./secrets.ts";
import type { McpServerSettings } from "./settings.ts";

/** The permission grammar joins server and tool by `__`: with these names a rule for one server can never reach another's tools. */
const serverName = /^[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*$/;

/** Headers that belong to the connection, which is the broker's. */
const refusedHeaders = /^(?:host|connection|keep-alive|te|trailer|transfer-encoding|upgrade|content-length|proxy-.*)$/i;

/** A server as a request means it, with what is stored under its name filled in. Whatever is wrong goes to `note`. */
export function readMcpServer(name: string, sent: McpServer, stored: McpServerSettings | undefined, note: Note): McpServerSettings {
  const field = `mcp_servers.${name}`;
  if (!serverName.test(name)) note(field, "a name has letters, digits, - and single _ inside");
  const type = wordOf(McpTransportSchema, sent.type);
  if (type === "http" || type === "sse") {
    refuseOthers(sent, field, ["command", "args", "env"], type, note);
    checkUrl(sent.url, `${field}.url`, note);
    return { type, url: sent.url, headers: readHeaders(sent, stored, `${field}.headers`, note) };
  }
  if (type !== "stdio") note(`${field}.type`, "must be stdio, http or sse");
  else refuseOthers(sent, field, ["url", "headers"], type, note);
  if (type === "stdio" && sent.command.trim() === "") note(`${field}.command`, "stdio needs a command");
  for (const variable of Object.keys(sent.env).filter(isRefusedName)) {
    note(`${field}.env.${variable}`, refusedNameMessage);
  }
  const env = mergeSecrets(sent.env, stored?.type === "stdio" ? stored.env : {});
  return { type: "stdio", command: sent.command, args: sent.args, env };
}

function refuseOthers(
  sent: McpServer,
  field: string,
  names: readonly ("url" | "headers" | "command" | "args" | "env")[],
  type: string,
  note: Note,
): void {
  for (const name of names) {
    const value = sent[name];
    const isEmpty = typeof value === "string" ? value === "" : Object.keys(value).length === 0;
    if (!isEmpty) note(`${field}.${name}`, `does not go with type ${type}`);
  }
}

function checkUrl(text: string, field: string, note: Note): void {
  const url = URL.parse(text);
  if (!url || (url.protocol !== "http:" && url.protocol !== "https:")) return note(field, "must be an http or https URL");
  if (url.username !== "" || url.password !== "") note(field, "must not hold a user name or password; send a header");
  if (url.hash !== "") note(field, "must not have a fragment");
}

function readHeaders(sent: McpServer, stored: McpServerSettings | undefined, field: string, note: Note): Record<string, string> {
  const before = stored && stored.type !== "stdio" ? stored : undefined;
  // Else whoever may write a profile but not read it could have its secrets sent to an address of their own.
  const moved = before !== undefined && URL.parse(before.url)?.origin !== URL.parse(sent.url)?.origin;
  const headers = mergeSecrets(sent.headers, before && !moved ? before.headers : {});
  const seen = new Set<string>();
  for (const [name, value] of Object.entries(headers)) {
    const at = `${field}.${name}`;
    if (refusedHeaders.test(name)) note(at, "this header belongs to the connection");
    if (seen.has(name.toLowerCase())) note(at, "given twice");
    seen.add(name.toLowerCase());
    if (value.trim() !== "") continue;
    note(at, moved && Object.hasOwn(before.headers, name) ? "its value was stored for another address: send it again" : "needs a value");
  }
  return headers;
}
