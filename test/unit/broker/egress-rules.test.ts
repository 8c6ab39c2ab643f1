import { describe, expect, test } from "vitest";
import { judge, parseAbsoluteUri, refusalOf } from "../../../server/broker/egress-rules.ts";
import { parseAuthority } from "../../../server/broker/host-pattern.ts";

describe("a verdict", () => {
  const target = (text: string) => parseAuthority(text)!;

  test.each([
    [["example.com"], "example.com:443", false, "listed"],
    [["example.com"], "example.com:80", false, "listed"],
    [["example.com"], "example.com:22", false, "port"],
    [["*"], "example.com:8443", false, "port"],
    [["example.com"], "example.com:8443", true, "listed"],
    [[], "example.com:8443", true, "not_listed"],
    [[], "example.com:443", false, "not_listed"],
  ])("of %j for %s, opened by the operator: %s, is %s", (patterns, text, isOpened, verdict) => {
    expect(judge(patterns, target(text), isOpened)).toBe(verdict);
  });

  test("a refusal is one line and says what to add", () => {
    expect(refusalOf("not_listed", target("EXAMPLE.com:443"))).toEqual({
      status: 403,
      text: 'example.com is not open to this session: add "example.com" to allowed_hosts of its profile',
    });
    for (const reason of ["not_listed", "port", "private_address", "unresolved", "unreachable"] as const) {
      expect(refusalOf(reason, target("[::1]:443")).text).toMatch(/^[\x20-\x7e]+$/);
    }
  });
});

describe("an absolute URI", () => {
  test.each([
    ["http://example.com", "example.com", 80, "/"],
    ["http://example.com/", "example.com", 80, "/"],
    ["HTTP://Example.com/A?b=c", "example.com", 80, "/A?b=c"],
    ["http://example.com?a=b", "example.com", 80, "/?a=b"],
    ["http://example.com:8080//x/../y", "example.com", 8080, "//x/../y"],
    ["http://example.com/a@b:c", "example.com", 80, "/a@b:c"],
    ["http://[::1]:81/", "::1", 81, "/"],
    ["http://example.com/%2f%00", "example.com", 80, "/%2f%00"],
  ])("%s", (uri, host, port, path) => {
    const read = parseAbsoluteUri(uri);
    expect([read?.target.host.text, read?.target.port, read?.path]).toEqual([host, port, path]);
  });

  test.each([
    "/",
    "*",
    "",
    "example.com",
    "example.com:80",
    "https://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "http:example.com",
    "http:/example.com",
    "http:///example.com",
    "http://",
    "http:///",
    "http://user@example.com/",
    "http://user:pass@example.com/",
    "http://@example.com/",
    "http://allowed.com@evil.test/",
    "http://evil.test\\@allowed.com/",
    "http://evil.test\\.allowed.com/",
    "http://allowed.com\\/",
    "http://allowed.com%00.evil.test/",
    "http://allowed.com%2eevil.test/",
    "http://allowed.com /",
    "http://allowed.com/a b",
    "http://allowed.com/\r\nHost: x",
    "http://allowed.com/#fragment",
    "http://allowed.com#@evil.test/",
    "http://allowed.com:80:80/",
    "http://allowed.com:/",
    "http://allowed.com./",
    "http://b\u00fccher.example/",
    "http://a.test/\u00fc",
    "javascript:alert(1)",
    "http://[::1/",
    "http://[::1%25lo]/",
    "ws://a.test/",
  ])("%j is refused", (uri) => {
    expect(parseAbsoluteUri(uri)).toBeUndefined();
  });
});
