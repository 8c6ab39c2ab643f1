import { formatAddress, parseAddress } from "./addresses.ts";

/** A host in its one canonical form. What is decided on and what is dialled are this value, never the text it came from. */
export type Host = {
  /** A lower-case ASCII name without trailing dot, or an address in standard text, IPv6 without brackets. */
  text: string;
  /** Its bytes, when the host is an address and not a name. */
  address?: Uint8Array;
};

export type Target = { host: Host; port: number };

const longestName = 253;
const name = /^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$/;

/** Letters, digits and the three marks of names, of any script; or an IPv6 address in brackets. Nothing that could end a host early. */
const plausible = /^(?:[\p{L}\p{M}\p{N}._-]+|\[[0-9a-fA-F:.]+\])$/u;

/**
 * Reads a host as the URL standard does (IDNA, IPv4 in octal, hexadecimal, short and integer form) after refusing what different
 * parsers read differently: user information, percent signs, white space, control characters, empty labels, a trailing dot.
 */
export function parseHost(text: string): Host | undefined {
  if (text.length > longestName || !plausible.test(text) || /^\.|\.$|\.\./.test(text)) return undefined;
  const canonical = URL.parse(`http://${text}/`)?.hostname;
  if (!canonical) return undefined;
  const address = parseAddress(canonical.replace(/^\[(.*)\]$/, "$1"));
  if (address) return { text: formatAddress(address), address };
  return canonical.length <= longestName && name.test(canonical) ? { text: canonical } : undefined;
}

/** `host:port` as it stands on the wire, so in ASCII. Without a port it is `defaultPort`; without that, it is refused. */
export function parseAuthority(text: string, defaultPort?: number): Target | undefined {
  const [, hostText, portText] = /^([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(?::([1-9]\d{0,4}))?$/.exec(text) ?? [];
  const host = hostText === undefined ? undefined : parseHost(hostText);
  const port = portText === undefined ? defaultPort : Number(portText);
  return host && port !== undefined && port <= 65_535 ? { host, port } : undefined;
}

/** As it stands in a URL or a Host header. */
export function formatAuthority({ host, port }: Target, defaultPort?: number): string {
  const text = host.address?.length === 16 ? `[${host.text}]` : host.text;
  return port === defaultPort ? text : `${text}:${port}`;
}

/**
 * Whether a list of `*`, `*.suffix` and exact hosts names this one. `*.suffix` is every name below the suffix, not the suffix
 * itself, and never an address.
 */
export function isListed(patterns: readonly string[], host: Host): boolean {
  return patterns.some((pattern) => {
    if (pattern === "*") return true;
    if (!pattern.startsWith("*.")) return parseHost(pattern)?.text === host.text;
    const suffix = parseHost(pattern.slice(2));
    return suffix !== undefined && !suffix.address && !host.address && host.text.endsWith(`.${suffix.text}`);
  });
}
