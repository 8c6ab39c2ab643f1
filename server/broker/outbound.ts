import dns from "node:dns";
import net from "node:net";
import { networkInterfaces } from "node:os";
import { type AddressRange, classify, contains, formatAddress, parseAddress, parseRange } from "./addresses.ts";
import { type Host, parseAuthority, type Target } from "./host-pattern.ts";

export type DialFailure = "private_address" | "unresolved" | "unreachable";

/** `detail` is for the log, never for the sandbox: it may tell of the network behind the server. */
export type Dialled = { socket: net.Socket } | { failure: DialFailure; detail: string };

/** The addresses of a name, as text. Fails when it cannot be told. */
export type Resolve = (name: string) => Promise<readonly string[]>;

export type OutboundOptions = {
  /** Default: DNS. The hosts file is not read, it speaks of the server's own surroundings. */
  resolve?: Resolve;
  /** What the operator opens in spite of its address: `10.1.0.0/16`, `10.1.2.3`, `host:port`. Default: nothing. */
  allowPrivate?: readonly string[];
  /** The addresses of this machine, private or not. Default: those of its interfaces now. */
  ownAddresses?(): string[];
  /** Milliseconds for one address to answer. Default 5,000. */
  connectTimeoutMs?: number;
};

export type Outbound = {
  /** Opens a connection to a permitted address of the host. Each address is judged, and the one that was judged is dialled. */
  dial(host: Host, port: number, signal?: AbortSignal): Promise<Dialled>;
  /** Whether the operator opened this very host and port. */
  isOpened(host: Host, port: number): boolean;
};

const mostAddresses = 6;

/** The one way out of the trusted side for what a sandbox or a profile names. Throws when `allowPrivate` does not read. */
export function createOutbound(options: OutboundOptions = {}): Outbound {
  const { resolve = createResolver(), ownAddresses = interfaceAddresses, connectTimeoutMs = 5_000 } = options;
  const opened = readExceptions(options.allowPrivate ?? []);
  const isOpened = (host: Host, port: number): boolean => opened.targets.some((one) => one.host.text === host.text && one.port === port);

  return {
    isOpened,
    async dial(host, port, signal) {
      const found = host.address ? [host.address] : await resolveAll(resolve, host.text);
      if (!Array.isArray(found)) return found;
      const own = new Set(ownAddresses());
      const permitted = isOpened(host, port) ? found : found.filter((address) => isPermitted(address, opened.ranges, own));
      if (permitted.length === 0) return { failure: "private_address", detail: found.map(formatAddress).join(" ") };
      return dialFirst(permitted.slice(0, mostAddresses), port, connectTimeoutMs, signal);
    },
  };
}

/** The entries of an exception list that are neither a range, nor an address, nor `host:port`. */
export function badExceptions(list: readonly string[]): string[] {
  return list.filter((text) => !parseRange(text) && !parseAuthority(text));
}

function readExceptions(list: readonly string[]): { ranges: AddressRange[]; targets: Target[] } {
  const bad = badExceptions(list);
  if (bad.length > 0) throw new Error(`not a range, an address or host:port: ${bad.join(", ")}`);
  return {
    ranges: list.flatMap((text) => parseRange(text) ?? []),
    targets: list.flatMap((text) => (parseRange(text) ? [] : (parseAuthority(text) ?? []))),
  };
}

function isPermitted(address: Uint8Array, ranges: readonly AddressRange[], own: ReadonlySet<string>): boolean {
  const kind = classify(address);
  // A range opens what is in it, but the machine's credentials only when it is nothing else.
  if (ranges.some((range) => contains(range, address) && (kind !== "metadata" || range.bits === address.length * 8))) return true;
  return kind === "public" && !own.has(formatAddress(address));
}

async function resolveAll(resolve: Resolve, name: string): Promise<Uint8Array[] | Dialled> {
  try {
    const found = (await resolve(name)).flatMap((text) => parseAddress(text) ?? []);
    // A path that drops IPv6 would cost a timeout per address; one that lacks it fails at once.
    found.sort((a, b) => a.length - b.length);
    return found.length > 0 ? found : { failure: "unresolved", detail: "no address" };
  } catch (error) {
    return { failure: "unresolved", detail: (error as Error).message };
  }
}

async function dialFirst(
  addresses: readonly Uint8Array[],
  port: number,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<Dialled> {
  const failures: string[] = [];
  for (const address of addresses) {
    if (signal?.aborted) break;
    const text = formatAddress(address);
    try {
      return { socket: await connect(text, port, timeoutMs, signal) };
    } catch (error) {
      failures.push(`${text}: ${(error as Error).message}`);
    }
  }
  return { failure: "unreachable", detail: failures.join("; ") };
}

/** `address` is an address and no name, so nothing is looked up here. */
function connect(address: string, port: number, timeoutMs: number, signal: AbortSignal | undefined): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host: address, port, noDelay: true, autoSelectFamily: false });
    const abort = (): void => void socket.destroy(new Error("no longer wanted"));
    const timer = setTimeout(() => socket.destroy(new Error("did not answer in time")), timeoutMs);
    const settled = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
    signal?.addEventListener("abort", abort);
    socket.once("error", (error) => {
      settled();
      reject(error);
    });
    socket.once("connect", () => {
      settled();
      socket.removeAllListeners("error");
      resolve(socket);
    });
  });
}

/** Asks DNS itself: the system's resolver would let a sandbox's slow names occupy the threads that files and keys need. */
function createResolver(): Resolve {
  const resolver = new dns.promises.Resolver({ timeout: 3_000, tries: 2 });
  return async (name) => {
    if (name === "localhost" || name.endsWith(".localhost")) return ["127.0.0.1", "::1"];
    const [four, six] = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
    if (four.status === "rejected" && six.status === "rejected") throw four.reason;
    return [four, six].flatMap((answer) => (answer.status === "fulfilled" ? answer.value : []));
  };
}

function interfaceAddresses(): string[] {
  return Object.values(networkInterfaces()).flatMap((all) =>
    (all ?? []).flatMap(({ address }) => {
      const bytes = parseAddress(address.replace(/%.*$/, ""));
      return bytes ? [formatAddress(bytes)] : [];
    }),
  );
}
