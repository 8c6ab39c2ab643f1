import { formatAuthority, type Host, isListed, parseAuthority, type Target } from "./host-pattern.ts";

export type EgressReason = "listed" | "not_listed" | "port" | "private_address" | "unresolved" | "unreachable";

/** What was decided about one connection. Holds nothing of what would have passed through it. */
export type EgressDecision = { host: string; port: number; allowed: boolean; reason: EgressReason };

export type Refusal = { status: number; text: string };

/** The web's own two; a list of hosts says nothing of ports. */
const openPorts = new Set([80, 443]);

/** `isOpened`: the operator named this host with this port. A session must list the host all the same. */
export function judge(allowedHosts: readonly string[], { host, port }: Target, isOpened: boolean): "listed" | "not_listed" | "port" {
  if (!isListed(allowedHosts, host)) return "not_listed";
  return openPorts.has(port) || isOpened ? "listed" : "port";
}

/** One line that says what would help. Names the host as we read it, and nothing of where it leads. */
export function refusalOf(reason: Exclude<EgressReason, "listed">, { host, port }: Target): Refusal {
  switch (reason) {
    case "not_listed":
      return { status: 403, text: `${host.text} is not open to this session: add ${listEntries(host)} to allowed_hosts of its profile` };
    case "port":
      return { status: 403, text: `port ${port} of ${host.text} is not open: allowed_hosts opens ports 80 and 443 only` };
    case "private_address":
      return {
        status: 403,
        text: `${host.text} is at a private or special address, which no entry of allowed_hosts opens: only the operator of this installation can`,
      };
    case "unresolved":
      return { status: 502, text: `${host.text} is not known to DNS` };
    case "unreachable":
      return { status: 502, text: `${host.text} does not answer on port ${port}` };
  }
}

function listEntries({ text, address }: Host): string {
  // The list has no form for an IPv6 address.
  return address?.length === 16 ? '"*"' : `"${text}"`;
}

/** What a plain HTTP request for a proxy is for. `path` has the query; undefined when the URI is anything but `http://host[:port]/…`. */
export function parseAbsoluteUri(uri: string): { target: Target; path: string } | undefined {
  const [, authority, rest = ""] = /^http:\/\/([^/?#]*)([/?][\x21\x22\x24-\x7e]*)?$/i.exec(uri) ?? [];
  const target = authority === undefined ? undefined : parseAuthority(authority, 80);
  return target && { target, path: rest.startsWith("/") ? rest : `/${rest}` };
}

/** As the Host header of a forwarded request says it: always the judged host, whatever the client's header said. */
export function hostHeader(target: Target): string {
  return formatAuthority(target, 80);
}
