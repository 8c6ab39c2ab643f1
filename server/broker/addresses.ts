import net from "node:net";

/**
 * What an address is for. Only `public` ones are anybody's business; the rest lead into the network of the server, to itself,
 * to the machine's provider, or nowhere.
 */
export type AddressKind =
  | "public"
  | "unspecified"
  | "private"
  | "shared"
  | "loopback"
  | "link_local"
  | "metadata"
  | "documentation"
  | "benchmarking"
  | "multicast"
  | "reserved"
  | "tunnel";

/** The first `bits` bits of an address of the same length. */
export type AddressRange = { bytes: Uint8Array; bits: number };

/** Ahead of the ranges that hold them, and one that is in none: these answer with the credentials of the machine. */
const metadata = ranges(
  "metadata",
  "169.254.169.254/32",
  "169.254.170.2/32",
  "100.100.100.200/32",
  "168.63.129.16/32",
  "192.0.0.192/32",
  "fd00:ec2::254/128",
);

const special4 = [
  ...ranges("unspecified", "0.0.0.0/8"),
  ...ranges("private", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
  ...ranges("shared", "100.64.0.0/10"),
  ...ranges("loopback", "127.0.0.0/8"),
  ...ranges("link_local", "169.254.0.0/16"),
  ...ranges("reserved", "192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4"),
  ...ranges("documentation", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
  ...ranges("benchmarking", "198.18.0.0/15"),
  ...ranges("multicast", "224.0.0.0/4"),
];

const special6 = [
  ...ranges("unspecified", "::/128"),
  ...ranges("loopback", "::1/128"),
  ...ranges("private", "fc00::/7", "fec0::/10"),
  ...ranges("link_local", "fe80::/10"),
  ...ranges("multicast", "ff00::/8"),
  ...ranges("benchmarking", "2001:2::/48"),
  ...ranges("documentation", "2001:db8::/32", "3fff::/20"),
  // Each carries an IPv4 address that some gateway on the way may send it to.
  ...ranges("tunnel", "::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"),
  ...ranges("reserved", "2001::/23"),
];

const mapped = prefix("::ffff:0:0/96");
const translated = prefix("64:ff9b::/96");
const globalUnicast = prefix("2000::/3");

/**
 * The 4 or 16 bytes of an address in the standard text form; undefined for any other text, also one with a zone. An IPv4
 * address in IPv6 clothes (`::ffff:0:0/96`) is the IPv4 address, because the kernel dials that.
 */
export function parseAddress(text: string): Uint8Array | undefined {
  if (net.isIPv4(text)) return Uint8Array.from(text.split("."), Number);
  if (text.includes("%") || !net.isIPv6(text)) return undefined;
  const bytes = bytesOf6(text);
  return contains(mapped, bytes) ? bytes.subarray(12) : bytes;
}

/** The text form that names exactly these bytes. */
export function formatAddress(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join(".");
  const groups = Array.from({ length: 8 }, (_, index) => ((bytes[index * 2]! << 8) | bytes[index * 2 + 1]!).toString(16));
  return new URL(`http://[${groups.join(":")}]/`).hostname.slice(1, -1);
}

/** Sorts an address by its bytes. What no registry knows to be public is not. */
export function classify(address: Uint8Array): AddressKind {
  const known = metadata.find((range) => contains(range, address));
  if (known) return known.kind;
  if (address.length === 4) return special4.find((range) => contains(range, address))?.kind ?? "public";
  // On a network without IPv4 every IPv4 host has such an address: it is what the IPv4 address is.
  if (contains(translated, address)) return classify(address.subarray(12));
  const special = special6.find((range) => contains(range, address))?.kind;
  return special ?? (contains(globalUnicast, address) ? "public" : "reserved");
}

export function contains({ bytes, bits }: AddressRange, address: Uint8Array): boolean {
  if (bytes.length !== address.length) return false;
  return bytes.every((byte, index) => {
    const kept = Math.min(8, Math.max(0, bits - index * 8));
    const mask = (0xff00 >> kept) & 0xff;
    return (byte & mask) === (address[index]! & mask);
  });
}

/** `address/bits`, or one address; undefined for anything else. */
export function parseRange(text: string): AddressRange | undefined {
  const [, addressText, bitsText] = /^([0-9a-fA-F.:]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const bytes = addressText === undefined ? undefined : parseAddress(addressText);
  if (!bytes) return undefined;
  const bits = bitsText === undefined ? bytes.length * 8 : Number(bitsText);
  return bits <= bytes.length * 8 ? { bytes, bits } : undefined;
}

function ranges(kind: AddressKind, ...texts: string[]): (AddressRange & { kind: AddressKind })[] {
  return texts.map((text) => ({ kind, ...prefix(text) }));
}

/** A range of our own tables; unlike `parseRange` it leaves IPv6 as it is written. */
function prefix(text: string): AddressRange {
  const [address = "", bits] = text.split("/");
  return { bytes: net.isIPv4(address) ? Uint8Array.from(address.split("."), Number) : bytesOf6(address), bits: Number(bits) };
}

function bytesOf6(text: string): Uint8Array {
  // The URL standard writes the last 32 bits in hexadecimal too, and the zeros once at most.
  const [head = "", tail] = new URL(`http://[${text}]/`).hostname.slice(1, -1).split("::");
  const words = (part: string) => (part === "" ? [] : part.split(":").map((word) => Number.parseInt(word, 16)));
  const [first, last] = [words(head), words(tail ?? "")];
  const all = [...first, ...Array<number>(8 - first.length - last.length).fill(0), ...last];
  return Uint8Array.from(all.flatMap((word) => [word >> 8, word & 0xff]));
}
