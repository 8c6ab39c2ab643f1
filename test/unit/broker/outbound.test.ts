import net from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseHost } from "../../../server/broker/host-pattern.ts";
import { badExceptions, createOutbound, type Dialled } from "../../../server/broker/outbound.ts";

let server: net.Server;
let port: number;
const seen: string[] = [];

beforeAll(async () => {
  server = net.createServer((socket) => {
    seen.push(socket.localAddress!);
    socket.on("error", () => undefined);
    socket.end();
  });
  await new Promise<void>((resolve) => server.listen(0, "0.0.0.0", resolve));
  port = (server.address() as net.AddressInfo).port;
});
afterAll(() => void server.close());

const host = (text: string) => parseHost(text)!;
const outcome = (dialled: Dialled): string => {
  if ("failure" in dialled) return dialled.failure;
  const { remoteAddress } = dialled.socket;
  dialled.socket.destroy();
  return remoteAddress!;
};
const noOwn = { ownAddresses: () => [] };

describe("dialling", () => {
  test("goes to the address that was judged: the name is asked for once", async () => {
    const answers = [["127.0.0.1"], ["127.0.0.2"], ["10.0.0.1"], ["169.254.169.254"]];
    let asked = 0;
    const outbound = createOutbound({ ...noOwn, resolve: async () => answers[asked++]!, allowPrivate: ["127.0.0.0/8"] });
    expect(outcome(await outbound.dial(host("rebinding.test"), port))).toBe("127.0.0.1");
    expect(asked).toBe(1);
    expect(outcome(await outbound.dial(host("rebinding.test"), port))).toBe("127.0.0.2");
    expect(outcome(await outbound.dial(host("rebinding.test"), port))).toBe("private_address");
    expect(outcome(await outbound.dial(host("rebinding.test"), port))).toBe("private_address");
    expect(asked).toBe(4);
    expect(seen).toEqual(["127.0.0.1", "127.0.0.2"]);
  });

  test("leaves out what may not be dialled of a mixed answer, and tries the rest in turn", async () => {
    const before = seen.length;
    const outbound = createOutbound({
      ...noOwn,
      resolve: async () => ["10.0.0.1", "::1", "169.254.169.254", "127.0.0.9", "127.0.0.3", "not an address", "fe80::1%lo"],
      allowPrivate: ["127.0.0.9", "127.0.0.3/32"],
      connectTimeoutMs: 500,
    });
    // Nothing listens for the first when its own port is asked for.
    expect(outcome(await outbound.dial(host("mixed.test"), port))).toBe("127.0.0.9");
    expect(seen.slice(before)).toEqual(["127.0.0.9"]);
    const one = net.createServer((socket) => socket.end());
    await new Promise<void>((resolve) => one.listen(0, "127.0.0.3", resolve));
    expect(outcome(await outbound.dial(host("mixed.test"), (one.address() as net.AddressInfo).port))).toBe("127.0.0.3");
    one.close();
  });

  test("is refused for every private form of an address, listed or resolved", async () => {
    const outbound = createOutbound({ ...noOwn, resolve: async (name) => [name.slice(0, -".test".length).replaceAll("_", ":")] });
    for (const text of [
      "127.0.0.1",
      "0",
      "127.1",
      "0x7f000001",
      "[::1]",
      "[::]",
      "[::ffff:7f00:1]",
      "[64:ff9b::7f00:1]",
      "[2002:7f00:1::]",
      "[fd00:ec2::254]",
      "169.254.169.254",
      "100.100.100.200",
      "10.0.0.1",
      "224.0.0.1",
      "255.255.255.255",
    ]) {
      expect([text, outcome(await outbound.dial(host(text), port))]).toEqual([text, "private_address"]);
    }
    expect(outcome(await outbound.dial(host("__1.test"), port))).toBe("private_address");
    expect(outcome(await outbound.dial(host("localhost"), port))).toBe("unresolved");
    expect(outcome(await createOutbound().dial(host("localhost"), port))).toBe("private_address");
    expect(outcome(await createOutbound().dial(host("db.localhost"), port))).toBe("private_address");
  });

  test("never leads to the server's own addresses, public as they may be", async () => {
    const outbound = createOutbound({
      resolve: async () => ["203.0.114.7", "2a00::7"],
      ownAddresses: () => ["203.0.114.7", "2a00::7"],
      connectTimeoutMs: 200,
    });
    expect(outcome(await outbound.dial(host("203.0.114.7"), 9))).toBe("private_address");
    expect(outcome(await outbound.dial(host("[2a00:0::7]"), 9))).toBe("private_address");
    expect(outcome(await outbound.dial(host("me.test"), 9))).toBe("private_address");
  });

  test("tells a name that is not known from a host that does not answer", async () => {
    const failing = createOutbound({ ...noOwn, resolve: () => Promise.reject(new Error("queryA ENOTFOUND")) });
    expect(await failing.dial(host("nowhere.test"), 80)).toEqual({ failure: "unresolved", detail: "queryA ENOTFOUND" });
    const empty = createOutbound({ ...noOwn, resolve: async () => [] });
    expect(await empty.dial(host("nowhere.test"), 80)).toEqual({ failure: "unresolved", detail: "no address" });
    const silent = createOutbound({ ...noOwn, allowPrivate: ["127.0.0.1"] });
    expect(outcome(await silent.dial(host("127.0.0.1"), 1))).toBe("unreachable");
  });

  test("stops when nobody waits for it", async () => {
    const gone = new AbortController();
    gone.abort();
    const outbound = createOutbound({ ...noOwn, allowPrivate: ["127.0.0.1"] });
    expect(outcome(await outbound.dial(host("127.0.0.1"), port, gone.signal))).toBe("unreachable");
  });
});

describe("the operator's exceptions", () => {
  test("a host with a port opens that port of that host, wherever it is", async () => {
    const outbound = createOutbound({ resolve: async () => ["127.0.0.1"], allowPrivate: [`Inner.test:${port}`, `[::1]:${port}`] });
    expect(outcome(await outbound.dial(host("inner.test"), port))).toBe("127.0.0.1");
    expect(outbound.isOpened(host("INNER.test"), port)).toBe(true);
    expect(outbound.isOpened(host("inner.test"), port + 1)).toBe(false);
    expect(outbound.isOpened(host("[0::1]"), port)).toBe(true);
    expect(outcome(await outbound.dial(host("inner.test"), port + 1))).toBe("private_address");
    expect(outcome(await outbound.dial(host("other.test"), port))).toBe("private_address");
  });

  test("a range does not open the machine's credentials, an address alone does", async () => {
    const wide = createOutbound({ ...noOwn, allowPrivate: ["169.254.0.0/16", "0.0.0.0/0"], connectTimeoutMs: 200 });
    expect(outcome(await wide.dial(host("169.254.169.254"), port))).toBe("private_address");
    const exact = createOutbound({ ...noOwn, allowPrivate: ["169.254.169.254"] });
    // Judged, and then not dialled: nobody waits for it.
    expect(outcome(await exact.dial(host("169.254.169.254"), 1, AbortSignal.abort()))).toBe("unreachable");
  });

  test("that do not read are refused together, by name", () => {
    const list = ["10.0.0.0/8", "10.0.0.0/40", "a.test:80", "a.test", "http://a.test:80", "::1", "[::1]:80", "*"];
    expect(badExceptions(list)).toEqual(["10.0.0.0/40", "a.test", "http://a.test:80", "*"]);
    expect(() => createOutbound({ allowPrivate: list })).toThrow("10.0.0.0/40, a.test, http://a.test:80, *");
  });
});
