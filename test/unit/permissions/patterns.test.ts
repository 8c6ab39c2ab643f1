import { describe, expect, it } from "vitest";
import { derivePattern } from "../../../server/channel/permissions/derive.ts";
import { decide, patternMatches } from "../../../server/channel/permissions/engine.ts";
import { parsePattern } from "../../../server/channel/permissions/pattern.ts";

describe("a pattern", () => {
  it.each([
    ...["Read", "Bash", "AskUserQuestion", "mcp__github", "mcp__github__create_issue", "mcp__a.b", "mcp__with-dash__t"],
    ...["Bash(rm:*)", "Bash(npm install:*)", "Bash(kubectl get:*)", "Bash(npm run test:unit:*)", "Bash(./run.sh:*)", "Bash(g++:*)"],
    ...["Bash([:*)", "Bash(git commit -m 'a b':*)", "Bash(timeout:*)", "Bash(find . -name *.ts:*)", "Bash(git  status:*)"],
  ])("%s is in the grammar", (text) => {
    expect(parsePattern(text)).toBeDefined();
  });

  it.each([
    ...[
      "",
      " ",
      "Read ",
      " Read",
      "Read(./src)",
      "WebFetch(domain:x)",
      "Bash()",
      "Bash(:*)",
      "Bash(*)",
      "Bash( :*)",
      "Bash(git)",
      "Bash(git *)",
    ],
    ...[
      "Bash(git:*",
      "Bash(git:*))x",
      "bash(git:*)x",
      "Bash( git:*)",
      "Bash(git :*)",
      "Bash (git:*)",
      "mcp__",
      "mcp____x",
      "mcp__*",
      "*",
      "Re*d",
      "1x",
    ],
    // No stage ever begins with these: such a rule would guard nothing.
    ...[
      "Bash(A=1 ls:*)",
      "Bash(ls; rm:*)",
      "Bash(ls | wc:*)",
      "Bash(ls > x:*)",
      "Bash($(x):*)",
      "Bash(ls $(x):*)",
      "Bash(`x`:*)",
      "Bash((ls):*)",
    ],
    ...[
      "Bash({ ls:*)",
      "Bash(if:*)",
      "Bash(! ls:*)",
      "Bash(for x:*)",
      "Bash([[:*)",
      "Bash($X:*)",
      "Bash(l*:*)",
      "Bash(~/x:*)",
      "Bash(ls 'x:*)",
      "Bash(ls\nrm:*)",
      "Bash(ls # x:*)",
      "Bash(ls &:*)",
      "Bash(ls\r:*)",
    ],
  ])("%j is not", (text) => {
    expect(parsePattern(text)).toBeUndefined();
  });

  it("matches a command only when it reaches every stage", () => {
    expect(patternMatches("Bash(git:*)", "Bash", { command: "git status && git log" })).toBe(true);
    expect(patternMatches("Bash(git:*)", "Bash", { command: "git status && ls" })).toBe(false);
    expect(patternMatches("Bash(git:*)", "Bash", { command: "git log $(ls)" })).toBe(false);
    expect(patternMatches("Bash", "Bash", { command: "git log $(ls)" })).toBe(true);
    expect(patternMatches("Bash(git:*)", "Read", { command: "git" })).toBe(false);
    expect(patternMatches("Bash(git", "Bash", { command: "git" })).toBe(false);
    expect(patternMatches("Task", "Agent", {})).toBe(true);
    expect(patternMatches("mcp__a", "mcp__a__b", {})).toBe(true);
  });
});

describe("the pattern of an approval for the session", () => {
  it.each([
    ["git status -s", "Bash(git status:*)"],
    ["npm install left-pad", "Bash(npm install:*)"],
    ["kubectl get pods", "Bash(kubectl get:*)"],
    ["docker ps", "Bash(docker ps:*)"],
    ["cargo test", "Bash(cargo test:*)"],
    ["go build ./...", "Bash(go build:*)"],
    ["gh pr list", "Bash(gh pr:*)"],
    ["aws s3 ls", "Bash(aws s3:*)"],
    ["ls -la", "Bash(ls:*)"],
    ["rm -rf x", "Bash(rm:*)"],
    ["python build.py", "Bash(python build.py:*)"],
    ["./run.sh a", "Bash(./run.sh:*)"],
    ["timeout 30 DEBUG=1 npm test", "Bash(npm test:*)"],
    ["git status && git status -s", "Bash(git status:*)"],
    ["ls; ls x | ls", "Bash(ls:*)"],
    ["cat x > y 2>&1", "Bash(cat:*)"],
    ["git 'status'", "Bash(git status:*)"],
    ["npm run test:unit", "Bash(npm run:*)"],
  ])("of %j is %s", (command, pattern) => {
    expect(derivePattern("Bash", { command })).toBe(pattern);
    expect(decide({ allowed: [], denied: [], sessionPatterns: [pattern], mode: "acceptEdits" }, "Bash", { command }).behavior).toBe(
      "allow",
    );
  });

  it.each([
    ...[
      "git status && git log",
      "ls && cat x",
      "ls $(cat x)",
      "(ls)",
      "git -C x status",
      "git",
      "python -c 'x'",
      "node -e 1",
      "$X y",
      "git $X",
    ],
    ...[
      "bash -c ls",
      "bash x.sh",
      "sudo ls",
      "env ls",
      "eval ls",
      "find . -exec ls {} +",
      "PATH=x ls",
      "if ls; then ls; fi",
      "! ls",
      "",
      "# x",
      "X=1",
      "ls '",
      "'my tool' x",
      "xargs -n1 ls",
      "> x",
      "'a=b' x",
    ],
  ])("of %j does not exist: the answer is for this call only", (command) => {
    expect(derivePattern("Bash", { command })).toBeUndefined();
  });

  it("is the tool's own name for every other tool", () => {
    expect(derivePattern("Write", { file_path: "x" })).toBe("Write");
    expect(derivePattern("mcp__a__b", {})).toBe("mcp__a__b");
    expect(derivePattern("Monitor", { command: "ls" })).toBe("Monitor");
    expect(derivePattern("AskUserQuestion", {})).toBeUndefined();
    expect(derivePattern("Bash", { command: 1 })).toBeUndefined();
    expect(derivePattern("not a tool", {})).toBeUndefined();
  });
});

describe("the engine explains itself", () => {
  const rules = { allowed: ["Bash(ls:*)", "Bash(cat:*)"], denied: ["Bash(rm:*)"], sessionPatterns: [], mode: "acceptEdits" as const };

  it("by the patterns that allowed, the rule that denied, or the reason a person is asked", () => {
    expect(decide(rules, "Bash", { command: "ls | cat; ls" })).toEqual({ behavior: "allow", by: "Bash(ls:*), Bash(cat:*)" });
    expect(decide(rules, "Write", {})).toEqual({ behavior: "allow", by: "acceptEdits" });
    expect(decide(rules, "Bash", { command: "rm x" })).toEqual({
      behavior: "deny",
      by: "Bash(rm:*)",
      message: "The rule Bash(rm:*) of this session denies this call.",
    });
    expect(decide(rules, "Bash", { command: "ls $(rm x)" })).toEqual({ behavior: "ask", why: "$(…)" });
    expect(decide(rules, "Read", {})).toEqual({ behavior: "ask", why: "no rule covers this call of Read" });
  });
});
