import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { classify, contains, formatAddress, parseAddress, parseRange } from "../../../server/broker/addresses.ts";

// The oracle: first and last number of each range, written down from the registries of special addresses, and compared as
// numbers. It shares nothing with the code under test, neither the notation nor the way of comparing.
type Numbers = [first: bigint, last: bigint];
const four = (a: number, b: number, c: number, d: number): bigint => BigInt(((a * 256 + b) * 256 + c) * 256 + d);
const closed4: Numbers[] = [
  [four(0, 0, 0, 0), four(0, 255, 255, 255)],
  [four(10, 0, 0, 0), four(10, 255, 255, 255)],
  [four(100, 64, 0, 0), four(100, 127, 255, 255)],
  [four(127, 0, 0, 0), four(127, 255, 255, 255)],
  [four(168, 63, 129, 16), four(168, 63, 129, 16)],
  [four(169, 254, 0, 0), four(169, 254, 255, 255)],
  [four(172, 16, 0, 0), four(172, 31, 255, 255)],
  [four(192, 0, 0, 0), four(192, 0, 0, 255)],
  [four(192, 0, 2, 0), four(192, 0, 2, 255)],
  [four(192, 88, 99, 0), four(192, 88, 99, 255)],
  [four(192, 168, 0, 0), four(192, 168, 255, 255)],
  [four(198, 18, 0, 0), four(198, 19, 255, 255)],
  [four(198, 51, 100, 0), four(198, 51, 100, 255)],
  [four(203, 0, 113, 0), four(203, 0, 113, 255)],
  [four(224, 0, 0, 0), four(255, 255, 255, 255)],
];
const isPublic4 = (value: bigint): boolean => !closed4.some(([first, last]) => value >= first && value <= last);

const top = (high: bigint): bigint => high << 96n;
const inside6 = (value: bigint, first: bigint, last: bigint): boolean => value >= first && value <= last;
/** Of an address that is not IPv4-mapped. */
function isPublic6(value: bigint): boolean {
  if (value >> 32n === 0x0064_ff9bn << 64n) return isPublic4(value & 0xffff_ffffn);
  if (value < top(0x2000_0000n) || value >= top(0x4000_0000n)) return false;
  const closed: Numbers[] = [
    [top(0x2001_0000n), top(0x2001_0200n) - 1n],
    [top(0x2001_0db8n), top(0x2001_0db9n) - 1n],
    [top(0x2002_0000n), top(0x2003_0000n) - 1n],
    [top(0x3fff_0000n), top(0x3fff_1000n) - 1n],
  ];
  return !closed.some(([first, last]) => inside6(value, first, last));
}

const bytesOf = (value: bigint, length: number): Uint8Array =>
  Uint8Array.from({ length }, (_, index) => Number((value >> BigInt(8 * (length - 1 - index))) & 0xffn));
const text6 = (value: bigint): string =>
  Array.from({ length: 8 }, (_, index) => ((value >> BigInt(16 * (7 - index))) & 0xffffn).toString(16)).join(":");
const edges4 = closed4
  .flatMap(([first, last]) => [first - 1n, first, first + 1n, last - 1n, last, last + 1n])
  .filter((value) => value >= 0n && value <= 0xffff_ffffn);
const any4 = fc.oneof(fc.bigInt({ min: 0n, max: 0xffff_ffffn }), fc.constantFrom(...edges4));
const prefixes6 = [
  0n,
  0x0064_ff9bn,
  0x0064_ff9c0n,
  0x0100_0000n,
  0x1fff_ffffn,
  0x2000_0000n,
  0x2001_0000n,
  0x2001_01ffn,
  0x2001_0200n,
  0x2001_0db7n,
  0x2001_0db8n,
  0x2001_0db9n,
  0x2001_ffffn,
  0x2002_0000n,
  0x2002_7f00n,
  0x2003_0000n,
  0x3ffe_ffffn,
  0x3fff_0000n,
  0x3fff_0fffn,
  0x3fff_1000n,
  0x3fff_ffffn,
  0x4000_0000n,
  0x5f00_0000n,
  0xfc00_0000n,
  0xfd00_0ec2n,
  0xfe80_0000n,
  0xfec0_0000n,
  0xff02_0000n,
].filter((high) => high <= 0xffff_ffffn);
const any6 = fc.oneof(
  fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }),
  fc.tuple(fc.constantFrom(...prefixes6), fc.bigInt({ min: 0n, max: (1n << 96n) - 1n })).map(([high, low]) => top(high) + low),
  any4.map((low) => (0x0064_ff9bn << 96n) + low),
  any4.map((low) => low),
);

describe("classification by bytes", () => {
  test("agrees with the registries for IPv4, at every edge and at random", () => {
    for (const value of edges4) expect([value, classify(bytesOf(value, 4)) === "public"]).toEqual([value, isPublic4(value)]);
    fc.assert(
      fc.property(any4, (value) => void expect(classify(bytesOf(value, 4)) === "public").toBe(isPublic4(value))),
      { numRuns: 5_000 },
    );
  });

  test("agrees with the registries for IPv6, with what carries IPv4 in it", () => {
    fc.assert(
      fc.property(
        any6,
        (value) => void expect([text6(value), classify(bytesOf(value, 16)) === "public"]).toEqual([text6(value), isPublic6(value)]),
      ),
      { numRuns: 5_000 },
    );
  });

  test("an IPv4 address means the same in IPv6 clothes", () => {
    fc.assert(
      fc.property(any4, (value) => {
        const mapped = parseAddress(text6((0xffffn << 32n) + value))!;
        expect(mapped).toEqual(bytesOf(value, 4));
        expect(classify(bytesOf((0x0064_ff9bn << 96n) + value, 16))).toBe(classify(mapped));
        // Ways that lead through somebody's tunnel lead nowhere, whatever they carry.
        for (const carried of [
          (0x2002n << 112n) + (value << 80n),
          (0x2001_0000n << 96n) + (value ^ 0xffff_ffffn),
          value + (0xffff_0000n << 32n),
        ]) {
          expect(classify(bytesOf(carried, 16))).toBe("tunnel");
        }
      }),
    );
  });

  test.each([
    ["169.254.169.254", "metadata"],
    ["169.254.170.2", "metadata"],
    ["100.100.100.200", "metadata"],
    ["168.63.129.16", "metadata"],
    ["192.0.0.192", "metadata"],
    ["fd00:ec2::254", "metadata"],
    ["64:ff9b::a9fe:a9fe", "metadata"],
    ["::ffff:169.254.169.254", "metadata"],
    ["127.0.0.1", "loopback"],
    ["127.255.255.255", "loopback"],
    ["::1", "loopback"],
    ["0.0.0.0", "unspecified"],
    ["::", "unspecified"],
    ["10.1.2.3", "private"],
    ["172.31.255.255", "private"],
    ["192.168.1.1", "private"],
    ["fd12::1", "private"],
    ["fec0::1", "private"],
    ["100.64.0.1", "shared"],
    ["169.254.1.1", "link_local"],
    ["fe80::1", "link_local"],
    ["224.0.0.1", "multicast"],
    ["ff02::1", "multicast"],
    ["255.255.255.255", "reserved"],
    ["240.0.0.1", "reserved"],
    ["192.0.2.1", "documentation"],
    ["2001:db8::1", "documentation"],
    ["3fff::1", "documentation"],
    ["198.18.0.1", "benchmarking"],
    ["2001:2::1", "benchmarking"],
    ["2002:7f00:1::", "tunnel"],
    ["2001::1", "tunnel"],
    ["::127.0.0.1", "tunnel"],
    ["64:ff9b:1::1", "tunnel"],
    ["100::1", "reserved"],
    ["5f00::1", "reserved"],
    ["2001:20::1", "reserved"],
    ["1.1.1.1", "public"],
    ["8.8.8.8", "public"],
    ["172.32.0.1", "public"],
    ["100.128.0.1", "public"],
    ["2606:4700::1111", "public"],
    ["64:ff9b::808:808", "public"],
    ["2620:0:2d0::1", "public"],
  ])("%s is %s", (text, kind) => {
    expect(classify(parseAddress(text)!)).toBe(kind);
  });
});

describe("the text of an address", () => {
  test("goes to bytes and back", () => {
    fc.assert(
      fc.property(
        any6.filter((value) => value >> 32n !== 0xffffn),
        (value) => {
          const bytes = parseAddress(text6(value))!;
          expect(bytes).toEqual(bytesOf(value, 16));
          expect(parseAddress(formatAddress(bytes))).toEqual(bytes);
        },
      ),
    );
    fc.assert(fc.property(fc.ipV6(), (text) => void expect(parseAddress(text)).toBeDefined()));
    fc.assert(fc.property(fc.ipV4(), (text) => void expect(formatAddress(parseAddress(text)!)).toBe(text)));
  });

  test.each([
    "",
    "1.2.3",
    "1.2.3.4.5",
    "01.2.3.4",
    "0x1.2.3.4",
    "1.2.3.256",
    " 1.2.3.4",
    "1.2.3.4 ",
    "1.2.3.4\0",
    "fe80::1%eth0",
    "[::1]",
    "::1::",
    "example.com",
    "1",
    "::ffff:1.2.3",
    "g::",
  ])("%j is none", (text) => {
    expect(parseAddress(text)).toBeUndefined();
  });
});

describe("a range", () => {
  test.each([
    "",
    "/",
    "10.0.0.0/33",
    "::/129",
    "10.0.0.0/",
    "10.0.0.0/-1",
    "10.0.0/8",
    "example.com/8",
    "10.0.0.0/8/8",
    "10.0.0.0/1e1",
    "1.2.3.4:80",
  ])("%j is none", (text) => {
    expect(parseRange(text)).toBeUndefined();
  });

  test("holds the addresses that share its first bits, and only those", () => {
    fc.assert(
      fc.property(any4, fc.integer({ min: 0, max: 32 }), any4, (value, bits, other) => {
        const range = parseRange(`${formatAddress(bytesOf(value, 4))}/${bits}`)!;
        expect(contains(range, bytesOf(other, 4))).toBe(value >> BigInt(32 - bits) === other >> BigInt(32 - bits));
        expect(contains(range, bytesOf(value, 16))).toBe(false);
      }),
    );
  });
});
