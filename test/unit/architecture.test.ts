/** The rules of the tree that no compiler knows: who may import whom, who may touch what, how long a file may be. */
import { execFileSync } from "node:child_process";
import { existsSync, globSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";

const root = path.resolve(import.meta.dirname, "../..");
const trees = ["server", "runner", "sdk", "cli", "web", "demo", "setup", "bench", "test"];
const longestFile = 400;

type Source = { name: string; text: string };
type Import = { from: string; to: string; typeOnly: boolean };

const sources: Source[] = globSync(`{${trees.join(",")}}/**/*.{ts,tsx,mjs,sh,pl}`, { cwd: root })
  .filter((name) => !name.startsWith("runner/dist/") && !name.startsWith("web/dist/") && !name.includes("node_modules/"))
  .sort()
  .map((name) => ({ name, text: readFileSync(path.join(root, name), "utf8") }));
const imports = sources.flatMap(importsOf);

/** What a file imports: paths of the checkout for its own files, names for packages. */
function importsOf({ name, text }: Source): Import[] {
  const statements = text.matchAll(/^(?:import|export)\s(?:(type)\s)?(?:[^"'`;]*?\sfrom\s)?["']([^"'\n]+)["']/gm);
  const dynamic = text.matchAll(/(?<!typeof )\bimport\((?:\/\*.*?\*\/)?\s*["']([^"'\n]+)["']\)/g);
  const resolved = (target: string) => (target.startsWith(".") ? path.posix.join(path.posix.dirname(name), target) : target);
  return [
    ...[...statements].map(([, type, target]) => ({ from: name, to: resolved(target!), typeOnly: type !== undefined })),
    ...[...dynamic].map(([, target]) => ({ from: name, to: resolved(target!), typeOnly: false })),
  ];
}

/** Files of `tree` that import from another tree than `allowed` lists; an entry is a folder with its slash, or one file. */
function strangersIn(tree: string, allowed: readonly string[]): string[] {
  return imports
    .filter(({ from, to }) => from.startsWith(`${tree}/`) && trees.concat("gen").some((other) => to.startsWith(`${other}/`)))
    .filter(({ to }) => ![`${tree}/`, ...allowed].some((prefix) => (prefix.endsWith("/") ? to.startsWith(prefix) : to === prefix)))
    .map(({ from, to }) => `${from} imports ${to}`);
}

function linesWith(pattern: RegExp, isChecked: (name: string) => boolean): string[] {
  return sources
    .filter(({ name }) => isChecked(name))
    .flatMap(({ name, text }) =>
      text.split("\n").flatMap((line, index) => (pattern.test(line) ? [`${name}:${index + 1} ${line.trim()}`] : [])),
    );
}

const under =
  (...folders: string[]) =>
  (name: string) =>
    folders.some((folder) => name.startsWith(`${folder}/`));

describe("programs", () => {
  test.each([
    ["server", ["gen/"]],
    ["runner", ["gen/", "sdk/"]],
    ["sdk", ["gen/"]],
    ["cli", ["gen/", "sdk/"]],
    ["web", ["gen/", "sdk/"]],
    ["demo", ["gen/", "sdk/", "server/app.ts", "server/config.ts", "server/log.ts"]],
    ["setup", ["server/config.ts", "server/db/embedded-binaries.ts", "server/http/descriptors.ts"]],
  ])("%s imports only itself and %j", (tree, allowed) => {
    expect(strangersIn(tree, allowed)).toEqual([]);
  });

  test("the scripted model stands alone: it pretends to be somebody else's server", () => {
    expect(strangersIn("demo/scripted-model", [])).toEqual([]);
  });

  test("nothing but tests and measurements imports tests", () => {
    expect(imports.filter(({ from, to }) => to.startsWith("test/") && !under("test", "bench")(from))).toEqual([]);
  });
});

describe("the server", () => {
  const domains = ["registration", "profiles", "credentials", "sessions", "channel", "files", "usage"];

  test("domains do not import each other: app.ts hands them what they need", () => {
    const crossings = imports.filter(({ from, to }) =>
      domains.some(
        (domain) => from.startsWith(`server/${domain}/`) && domains.some((other) => other !== domain && to.startsWith(`server/${other}/`)),
      ),
    );
    expect(crossings).toEqual([]);
  });

  test.each([
    ["server/vault", ["server/db/database.ts"]],
    ["server/sandbox", []],
    ["server/db", ["server/errors.ts", "server/log.ts"]],
    ["server/journal", ["server/db/", "server/vault/", "server/sandbox/driver.ts", "server/errors.ts", "server/ids.ts", "server/log.ts"]],
  ])("%s knows nothing of what is above it", (folder, allowed) => {
    const values = imports.filter(({ typeOnly }) => !typeOnly);
    const upward = values.filter(
      ({ from, to }) =>
        from.startsWith(`${folder}/`) && to.startsWith("server/") && ![`${folder}/`, ...allowed].some((prefix) => to.startsWith(prefix)),
    );
    expect(upward).toEqual([]);
  });

  const isPure = (name: string) => /\/(rules|transitions)\.ts$/.test(name);

  test("rules are pure: they import no clock, database, network or process", () => {
    const impure = imports.filter(
      ({ from, to, typeOnly }) => isPure(from) && !typeOnly && (/^(node:|kysely|pg$|pino|ws$)/.test(to) || /\/store\.ts$/.test(to)),
    );
    expect(impure).toEqual([]);
    expect(linesWith(/\bDate\.now\(|new Date\(\)|performance\.|Math\.random|\bprocess\./, isPure)).toEqual([]);
  });

  const isStore = (name: string) => /\/(store|tables|request-ids)\.ts$/.test(name) || name.startsWith("server/db/");

  test("only stores build queries", () => {
    const values = sources.filter(
      ({ name, text }) => !isStore(name) && under("server")(name) && /^import (?!type )[^;]*?from "kysely"/m.test(text),
    );
    expect(values.map(({ name }) => name)).toEqual([]);
    const building = /\.(selectFrom|insertInto|updateTable|deleteFrom)\(|\bsql`/;
    expect(linesWith(building, (name) => under("server")(name) && !isStore(name))).toEqual([]);
  });

  test("config.ts alone reads the environment, and nothing writes to the console", () => {
    expect(linesWith(/\bprocess\.env\b/, (name) => under("server")(name) && name !== "server/config.ts")).toEqual([]);
    expect(linesWith(/\bconsole\./, under("server"))).toEqual([]);
  });

  test("the environment of the other programs is read in one place of each", () => {
    const readers = new Set(linesWith(/\bprocess\.env\b/, under("cli", "runner", "sdk", "web", "demo")).map((line) => line.split(":")[0]));
    expect([...readers].filter((name) => !/^(cli|runner|demo)\/main\.ts$/.test(name!))).toEqual([]);
  });
});

describe("every file", () => {
  test(`has at most ${longestFile} lines`, () => {
    expect(sources.filter(({ text }) => text.split("\n").length > longestFile + 1).map(({ name }) => name)).toEqual([]);
  });

  test("is finished: no reminders, no switched-off types", () => {
    const reminders = new RegExp(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"].map((word) => `\\b${word}\\b`).join("|"));
    expect(linesWith(reminders, () => true)).toEqual([]);
    expect(
      linesWith(/@ts-(ignore|expect-error|nocheck)/, (name) => /\.tsx?$/.test(name) && name !== "test/unit/architecture.test.ts"),
    ).toEqual([]);
  });

  test("names its imports with the extension they have", () => {
    expect(
      imports.filter(({ to }) => trees.concat("gen").some((tree) => to.startsWith(`${tree}/`)) && !existsSync(path.join(root, to))),
    ).toEqual([]);
  });
});

test("no test is switched off or run alone", () => {
  expect(
    linesWith(
      /\b(test|it|describe|suite)(\.\w+)*\.(only|skip|todo|fails)\b/,
      (name) => under("test")(name) && name !== "test/unit/architecture.test.ts",
    ),
  ).toEqual([]);
});

test("every dependency has its line under Decisions in README", () => {
  const { dependencies, optionalDependencies, devDependencies } = JSON.parse(
    readFileSync(path.join(root, "package.json"), "utf8"),
  ) as Record<string, Record<string, string>>;
  const readme = readFileSync(path.join(root, "README.md"), "utf8");
  const decisions = readme.slice(readme.indexOf("## Decisions"));
  const explained = new Set(
    [...decisions.matchAll(/^- (.*?): /gm)].flatMap(([, names]) => [...names!.matchAll(/`([^`]+)`/g)].map(([, name]) => name)),
  );
  const used = Object.keys({ ...dependencies, ...optionalDependencies, ...devDependencies });
  expect(used.filter((name) => !explained.has(name))).toEqual([]);
  expect([...explained].filter((name) => !used.includes(name!))).toEqual([]);
});

test("setup runs under Node 20: its first files are plain JavaScript without packages", () => {
  const first = imports.filter(({ from }) => /^setup\/.*\.mjs$/.test(from) || from === "cli/carrel.mjs");
  expect(first.filter(({ to }) => !to.startsWith("node:") && !/^setup\/\w+\.mjs$/.test(to))).toEqual([]);
  for (const name of globSync("setup/*.mjs", { cwd: root })) execFileSync(process.execPath, ["--check", path.join(root, name)]);
});
