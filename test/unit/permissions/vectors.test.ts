import { describe, expect, it } from "vitest";
import { decide } from "../../../server/channel/permissions/engine.ts";
import { readVectors } from "./vectors.ts";

describe("the permission engine gives the verdict its table states", () => {
  const vectors = readVectors();

  it("for several hundred rows", () => {
    expect(vectors.length).toBeGreaterThan(500);
  });

  for (const file of new Set(vectors.map((each) => each.file))) {
    it(`of ${file}`, () => {
      const wrong = vectors
        .filter((each) => each.file === file)
        .flatMap((each) => {
          const verdict = decide(each.rules, each.tool, each.input);
          return verdict.behavior === each.expected
            ? []
            : [`${file}:${each.line}: ${JSON.stringify(each.input)} expected ${each.expected}, got ${JSON.stringify(verdict)}`];
        });
      expect(wrong).toEqual([]);
    });
  }
});
