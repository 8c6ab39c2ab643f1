import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { formatAuthority, isListed, parseAuthority, parseHost } from "../../../server/broker/host-pattern.ts";

/** Everything a program might be made to take for a part of a host that it is not. */
const marks = [
  "\0",
  "\r",
  "\n",
  "\t",
  " ",
  "%00",
  "%0d%0a",
  "%2e",
  "%",
  "@",
  ":",
  "/",
  "\\",
  "?",
  "#",
  "<",
  ">",
  "|",
  "^",
  "`",
  '"',
  "'",
  ",",
  ";",
  "&",
  "=",
  "+",
  "*",
  "!",
  "$",
  "(",
  ")",
  "{",
  "}",
  "[",
  "]",
  "~",
  "\u007f",
  "\u0080",
  "\u200b",
  "\u202e",
  "\ufeff",
  "\u2044",
  "\u2215",
  "\uff20",
  "\uff0f",
  "\uff05",
];
const good = "allowed.example.com";
const bad = "evil.test";

describe("a host is refused", () => {
  test.each(marks)("with %j anywhere in it", (mark) => {
    for (const text of [
      `${bad}${mark}${good}`,
      `${good}${mark}${bad}`,
      `${mark}${good}`,
      `${good}${mark}`,
      `${bad}${mark}.${good}`,
      `a${mark}b.example.com`,
    ]) {
      expect([text, parseHost(text)]).toEqual([text, undefined]);
    }
  });

  test.each([
    ["", "nothing"],
    [".", "only a dot"],
    ["example.com.", "a trailing dot"],
    ["example.com..", "two"],
    [".example.com", "a leading dot"],
    ["example..com", "an empty label"],
    ["example.com\u3002", "a trailing ideographic dot"],
    ["\u3002example.com", "a leading ideographic dot"],
    [`${"a".repeat(64)}.com`, "a label of 64"],
    [`${"a.".repeat(126)}aa`, "254 characters"],
    ["\u00e4".repeat(250), "too long once encoded"],
    ["xn--ls8h=.la", "more broken punycode"],
    ["1.2.3.4.5", "five numbers"],
    ["1.2.3.256", "a number too big"],
    ["256.1.1.1", "a first number too big"],
    ["1.2.3.08", "a bad octal number"],
    ["4294967296", "an integer too big"],
    ["0x1ffffffff", "a hexadecimal integer too big"],
    ["0xg.1", "no hexadecimal number before a number"],
    ["foo.1", "a name that ends in a number"],
    ["foo.0x1f", "a name that ends in a hexadecimal number"],
    ["1.2.3.4.", "an address with a dot"],
    ["[::1", "an open bracket"],
    ["::1]", "a closing bracket"],
    ["::1", "no brackets"],
    ["[::1%25eth0]", "an encoded zone"],
    ["[::1%eth0]", "a zone"],
    ["[fe80::1%1]", "a link-local zone"],
    ["[]", "empty brackets"],
    ["[1.2.3.4]", "IPv4 in brackets"],
    ["[:::]", "three colons"],
    ["[1::2::3]", "two gaps"],
    ["[12345::]", "a word too long"],
    ["[::1.2.3]", "a short tail"],
    ["[::256.0.0.1]", "a tail out of range"],
    ["[::ffff:0x7f.0.0.1]", "an odd tail"],
    ["[v1.fe80]", "a future form"],
    ["[::1]a", "something after the bracket"],
    ["a[::1]", "something before the bracket"],
  ])("%j: %s", (text) => {
    expect(parseHost(text)).toBeUndefined();
    expect(parseAuthority(`${text}:443`)).toBeUndefined();
  });
});

describe("a host is read in its canonical form", () => {
  test.each([
    ["example.com", "example.com"],
    ["EXAMPLE.Com", "example.com"],
    ["a_b.example.com", "a_b.example.com"],
    ["-a.example.com", "-a.example.com"],
    ["localhost", "localhost"],
    ["a".repeat(63), "a".repeat(63)],
    ["b\u00fccher.example", "xn--bcher-kva.example"],
    ["B\u00dcCHER.example", "xn--bcher-kva.example"],
    ["bu\u0308cher.example", "xn--bcher-kva.example"],
    ["xn--bcher-kva.example", "xn--bcher-kva.example"],
    ["stra\u00dfe.example", "xn--strae-oqa.example"],
    ["\uff45\uff58\uff41\uff4d\uff50\uff4c\uff45.com", "example.com"],
    ["\u24d4xample.com", undefined],
    ["\u212aelvin.example", "kelvin.example"],
    ["\u0430llowed.example.com", "xn--llowed-2nf.example.com"],
    ["1e1.example", "1e1.example"],
    ["deadbeef", "deadbeef"],
  ])("%j is %j", (text, canonical) => {
    expect(parseHost(text)?.text).toBe(canonical);
    expect(parseHost(text)?.address).toBeUndefined();
  });

  test.each([
    ["127.0.0.1"],
    ["127.1"],
    ["127.0.1"],
    ["0177.0.0.1"],
    ["0177.1"],
    ["0x7f.0.0.1"],
    ["0x7f.1"],
    ["0x7f000001"],
    ["0X7F000001"],
    ["2130706433"],
    ["017700000001"],
    ["00000177.0.0.01"],
    ["127.0.0.0x1"],
    ["0x7f.0x0.0x0.0x1"],
    ["127.0.0.01"],
    ["[::ffff:127.0.0.1]"],
    ["[::ffff:7f00:1]"],
    ["[0:0:0:0:0:ffff:7f00:0001]"],
    ["[::FFFF:7F00:1]"],
    ["\uff11\uff12\uff17.0.0.1"],
  ])("%s is 127.0.0.1", (text) => {
    expect(parseHost(text)).toEqual({ text: "127.0.0.1", address: Uint8Array.of(127, 0, 0, 1) });
  });

  test.each([
    ["0", "0.0.0.0"],
    ["0x0", "0.0.0.0"],
    ["00", "0.0.0.0"],
    ["0.0", "0.0.0.0"],
    ["1", "0.0.0.1"],
    ["0x", "0.0.0.0"],
    ["4294967295", "255.255.255.255"],
    ["0xA9FEA9FE", "169.254.169.254"],
    ["2852039166", "169.254.169.254"],
    ["169.16689662", "169.254.169.254"],
    ["0251.0376.0251.0376", "169.254.169.254"],
  ])("%s is %s", (text, canonical) => {
    expect(parseHost(text)?.text).toBe(canonical);
    expect(parseHost(text)?.address).toHaveLength(4);
  });

  test.each([
    ["[::1]", "::1"],
    ["[::]", "::"],
    ["[0:0:0:0:0:0:0:1]", "::1"],
    ["[2001:DB8::1]", "2001:db8::1"],
    ["[2001:db8:0:0:1:0:0:1]", "2001:db8::1:0:0:1"],
    ["[64:ff9b::7f00:1]", "64:ff9b::7f00:1"],
    ["[::127.0.0.1]", "::7f00:1"],
    ["[2002:7f00:1::]", "2002:7f00:1::"],
  ])("%s is %s", (text, canonical) => {
    expect(parseHost(text)?.text).toBe(canonical);
    expect(parseHost(text)?.address).toHaveLength(16);
  });

  test("reading what was read changes nothing, whatever it was", () => {
    const piece = fc.oneof(
      fc.constantFrom(...marks, ".", "-", "_", "a", "0x7f", "127", "0177", "example", "com", "xn--", "[", "::", "ffff"),
      fc.string({ unit: "grapheme", maxLength: 4 }),
    );
    fc.assert(
      fc.property(
        fc.array(piece, { maxLength: 8 }).map((pieces) => pieces.join("")),
        (text) => {
          const host = parseHost(text);
          if (!host) return;
          expect(host.text).toMatch(/^[a-z0-9._:-]+$/);
          const again = parseHost(host.address?.length === 16 ? `[${host.text}]` : host.text);
          expect(again).toEqual(host);
          // What the standard's own parser dials for it is the same.
          const hostname = new URL(`http://${formatAuthority({ host, port: 80 })}/`).hostname;
          expect(hostname.replace(/^\[|\]$/g, "")).toBe(host.text);
        },
      ),
      { numRuns: 3_000 },
    );
  });
});

describe("an authority", () => {
  test.each([
    ["example.com:443", "example.com", 443],
    ["EXAMPLE.com:1", "example.com", 1],
    ["[::1]:8080", "::1", 8080],
    ["0x7f.1:65535", "127.0.0.1", 65535],
  ])("%s is host and port", (text, host, port) => {
    const target = parseAuthority(text);
    expect([target?.host.text, target?.port]).toEqual([host, port]);
  });

  test.each([
    "example.com",
    "example.com:",
    "example.com:0",
    "example.com:65536",
    "example.com:99999",
    "example.com:100000",
    "example.com:0443",
    "example.com:+443",
    "example.com:-1",
    "example.com:4 43",
    "example.com:0x1bb",
    "example.com:443:80",
    "example.com:http",
    ":443",
    "443",
    "*",
    "/",
    "user@example.com:443",
    "user:pass@example.com:443",
    "http://example.com:443",
    "https://example.com",
    "example.com:443/",
    "example.com:443/path",
    "example.com:443?a",
    "example.com:443#a",
    "b\u00fccher.example:443",
    "b\u00c3\u00bccher.example:443",
    "exam\u00adple.com:443",
    "\uff45xample.com:443",
  ])("%j is none", (text) => {
    expect(parseAuthority(text)).toBeUndefined();
  });
});

describe("a list of hosts", () => {
  const listed = (patterns: string[], text: string) => isListed(patterns, parseHost(text)!);

  test.each([
    [["example.com"], "example.com", true],
    [["example.com"], "EXAMPLE.COM", true],
    [["Example.COM"], "example.com", true],
    [["example.com"], "a.example.com", false],
    [["example.com"], "badexample.com", false],
    [["example.com"], "example.com.evil.test", false],
    [["example.com"], "example.co", false],
    [["*.example.com"], "a.example.com", true],
    [["*.example.com"], "a.b.example.com", true],
    [["*.example.com"], "example.com", false],
    [["*.example.com"], "badexample.com", false],
    [["*.example.com"], "a.example.com.evil.test", false],
    [["*.b\u00fccher.example"], "a.xn--bcher-kva.example", true],
    [["b\u00fccher.example"], "xn--bcher-kva.example", true],
    [["allowed.example.com"], "\u0430llowed.example.com", false],
    [["*"], "anything.test", true],
    [["*"], "1.1.1.1", true],
    [["*"], "[2606:4700::1111]", true],
    [["1.1.1.1"], "1.1.1.1", true],
    [["1.1.1.1"], "16843009", true],
    [["1.1.1.1"], "[::ffff:1.1.1.1]", true],
    [["*.1.1.1"], "1.1.1.1", false],
    [["*.1"], "1.1.1.1", false],
    [["*.com"], "1.1.1.1", false],
    [["*.*"], "example.com", false],
    [["**"], "example.com", false],
    [["ex*"], "example.com", false],
    [["*example.com"], "example.com", false],
    [["*."], "example.com", false],
    [[""], "example.com", false],
    [["."], "example.com", false],
    [[".example.com"], "a.example.com", false],
    [["https://example.com"], "example.com", false],
    [["example.com:443"], "example.com", false],
    [[], "example.com", false],
    [["a.test", "*.b.test"], "c.b.test", true],
  ])("%j with %s: %s", (patterns, host, expected) => {
    expect(listed(patterns, host)).toBe(expected);
  });

  test("a suffix is never reached by a host that has it in the middle or cut", () => {
    const label = fc.stringMatching(/^[a-z0-9]{1,8}$/).map((text) => `x${text}`);
    fc.assert(
      fc.property(label, label, label, (a, b, c) => {
        expect(listed([`*.${b}.${c}`], `${a}.${b}.${c}`)).toBe(true);
        expect(listed([`*.${b}.${c}`], `${a}${b}.${c}`)).toBe(false);
        expect(listed([`*.${b}.${c}`], `${b}.${c}.${a}zz`)).toBe(false);
        expect(listed([`${b}.${c}`], `${a}.${b}.${c}`)).toBe(false);
      }),
    );
  });
});
