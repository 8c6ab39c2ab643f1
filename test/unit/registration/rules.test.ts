import { ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { ErrorInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts";
import { reasonOf } from "../../../server/errors.ts";
import { checkMayRegister } from "../../../server/registration/rules.ts";

function refusalOf(email: string | undefined, domains: string[]): ConnectError | undefined {
  try {
    checkMayRegister(email, domains);
    return undefined;
  } catch (error) {
    return ConnectError.from(error);
  }
}

describe("an address may register", () => {
  it.each<[string | undefined, string[]]>([
    [undefined, []],
    ["a@anything.example", []],
    ["a@example.com", ["example.com"]],
    ["a@EXAMPLE.com", ["example.com"]],
    ["a@example.com", ["Example.COM"]],
    ["a@second.example", ["example.com", "second.example"]],
    [`"a@evil.example"@example.com`, ["example.com"]],
    ["a@bücher.example", ["bücher.example"]],
  ])("%j with the list %j", (email, domains) => {
    expect(refusalOf(email, domains)).toBeUndefined();
  });
});

describe("an address of another domain may not register", () => {
  it.each<[string, string[], string]>([
    ["a@evil.example", ["example.com"], "evil.example"],
    ["a@sub.example.com", ["example.com"], "sub.example.com"],
    ["a@notexample.com", ["example.com"], "notexample.com"],
    ["a@example.com.evil.example", ["example.com"], "example.com.evil.example"],
    ["a@example.co", ["example.com"], "example.co"],
    ["a@example.com.", ["example.com"], "example.com."],
    ["a@example.com@evil.example", ["example.com"], "evil.example"],
    ["example.com", ["other.example"], "example.com"],
    ["a@\u212Aelly.example", ["kelly.example"], "\u212Aelly.example"],
    ["a@", ["example.com"], ""],
  ])("%j with the list %j", (email, domains, domain) => {
    const refused = refusalOf(email, domains);
    expect(reasonOf(refused)).toBe(ErrorReason.EMAIL_DOMAIN_NOT_ALLOWED);
    expect(refused?.findDetails(ErrorInfoSchema)[0]?.metadata).toEqual({ domain });
  });
});

it("a person without an address may not register where domains are named", () => {
  expect(reasonOf(refusalOf(undefined, ["example.com"]))).toBe(ErrorReason.EMAIL_REQUIRED);
});
