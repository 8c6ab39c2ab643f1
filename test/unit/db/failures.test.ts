import { describe, expect, it } from "vitest";
import { isServerUnavailable, passingFailure } from "../../../server/db/failures.ts";

const withCode = (code: string): Error => Object.assign(new Error("from the driver"), { code });

describe("passingFailure", () => {
  it.each([
    ["40001", "conflict"],
    ["40P01", "conflict"],
    ["55P03", "conflict"],
    ["53300", "busy"],
    ["53100", "busy"],
    ["57014", "busy"],
    ["57P03", "busy"],
    ["57P01", "lost"],
    ["08006", "lost"],
    ["08P01", "lost"],
    ["ECONNRESET", "lost"],
    ["ECONNREFUSED", "busy"],
  ])("calls %s a %s", (code, kind) => {
    expect(passingFailure(withCode(code))?.kind).toBe(kind);
  });

  it.each(["23505", "22P02", "42P01", "EACCES", "ENOENT"])("does not expect %s to pass by itself", (code) => {
    expect(passingFailure(withCode(code))).toBeUndefined();
  });

  it("knows the driver's lost connections that carry no code", () => {
    expect(passingFailure(new Error("Connection terminated unexpectedly"))?.kind).toBe("lost");
    expect(passingFailure(new Error("timeout exceeded when trying to connect"))?.kind).toBe("lost");
  });

  it("takes nothing else for a database failure", () => {
    expect(passingFailure(new Error("out of cheese"))).toBeUndefined();
    expect(passingFailure("40001")).toBeUndefined();
  });

  it("does not blame the server for a conflict between transactions", () => {
    expect(isServerUnavailable(withCode("40001"))).toBe(false);
    expect(isServerUnavailable(withCode("57P03"))).toBe(true);
  });
});
