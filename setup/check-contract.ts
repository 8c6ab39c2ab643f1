/** The checks around proto/ and gen/. `copy` is a second checkout of just these, so that checking never writes into the first. */
import { cpSync, existsSync, globSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import type { DescFile, DescService } from "@bufbuild/protobuf";
import { assertAuthorized } from "../server/http/descriptors.ts";
import { buf, root } from "./buf.ts";
import { type Outcome, runTool } from "./check-tool.ts";

/** Branches that hold what others already rely on; the first that exists is compared with. */
const publishedBranches = ["main", "origin/main"];

/** Generates everything in the copy, where the schemas of others then are too. */
export function regenerate(copy: string): Promise<Outcome> {
  for (const name of ["setup", "proto", "buf.yaml", "buf.gen.yaml", "package.json"])
    cpSync(path.join(root, name), path.join(copy, name), { recursive: true });
  symlinkSync(path.join(root, "node_modules"), path.join(copy, "node_modules"));
  return runTool(process.execPath, [path.join(copy, "setup/generate.ts")], copy);
}

export async function checkGenerated(copy: string): Promise<Outcome> {
  const committed = readTree(path.join(root, "gen"));
  const fresh = readTree(path.join(copy, "gen"));
  const names = [...new Set([...committed.keys(), ...fresh.keys()])].sort();
  const stale = names.filter((name) => committed.get(name) !== fresh.get(name));
  if (stale.length === 0) return { result: "passed", text: "" };
  return { result: "failed", text: `not what proto/ generates; run npm run generate:\n${stale.map((name) => `gen/${name}`).join("\n")}` };
}

function readTree(directory: string): Map<string, string> {
  const files = globSync("**/*.ts", { cwd: directory });
  return new Map(files.map((name) => [name, readFileSync(path.join(directory, name), "utf8")]));
}

export function checkProtoFormat(): Promise<Outcome> {
  return runTool(buf, ["format", "--diff", "--exit-code", "proto"]);
}

export function checkProtoLint(copy: string): Promise<Outcome> {
  return runTool(buf, ["lint"], copy);
}

/** Against a tree rather than a git reference, because that lacks the schemas of others. */
export async function checkBreaking(copy: string): Promise<Outcome> {
  const against = path.join(copy, "against");
  const branch = await exportProto(against);
  if (branch === undefined) return { result: "skipped", text: "there is no main branch with proto files here" };
  cpSync(path.join(copy, "third_party"), path.join(against, "third_party"), { recursive: true });
  cpSync(path.join(root, "buf.yaml"), path.join(against, "buf.yaml"));
  return runTool(buf, ["breaking", "--against", against], copy);
}

/** Writes proto/ of the first published branch there is, and returns the branch. */
async function exportProto(target: string): Promise<string | undefined> {
  if (!existsSync(path.join(root, ".git"))) return undefined;
  for (const branch of publishedBranches) {
    const listed = await runTool("git", ["ls-tree", "-r", "--name-only", branch, "proto"]);
    const names = listed.text.split("\n").filter((name) => name.endsWith(".proto"));
    if (listed.result === "failed" || names.length === 0) continue;
    mkdirSync(target);
    const archived = await runTool("git", ["archive", "--output", path.join(target, "proto.tar"), branch, "proto"]);
    if (archived.result === "failed") throw new Error(archived.text);
    const unpacked = await runTool("tar", ["-xf", path.join(target, "proto.tar"), "-C", target]);
    if (unpacked.result === "failed") throw new Error(unpacked.text);
    return branch;
  }
  return undefined;
}

/** The public services and the runner's: whatever is generated from our own proto files. */
export async function checkAuthorization(): Promise<Outcome> {
  const services: DescService[] = [];
  for (const name of globSync("carrel/**/*_pb.ts", { cwd: path.join(root, "gen") })) {
    const module = (await import(pathToFileURL(path.join(root, "gen", name)).href)) as Record<string, { kind?: string } | undefined>;
    const file = Object.values(module).find((value) => value?.kind === "file") as DescFile | undefined;
    services.push(...(file?.services ?? []));
  }
  if (services.length === 0) return { result: "failed", text: "gen/ holds no service" };
  try {
    assertAuthorized(services);
    return { result: "passed", text: "" };
  } catch (error) {
    return { result: "failed", text: (error as Error).message };
  }
}
