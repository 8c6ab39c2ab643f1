import type { JsonObject } from "@bufbuild/protobuf";
import { patternMatches } from "./engine.ts";
import { parsePattern } from "./pattern.ts";
import { readStages, type Stage } from "./stages.ts";
import { personTools, shellTextOf } from "./tools.ts";

/**
 * Commands whose second word says what they do. Interpreters and task runners are among them, because approving one of their
 * scripts for a session is no approval of every other.
 */
const verbCommands: ReadonlySet<string> = new Set([
  ...[
    "git",
    "gh",
    "glab",
    "hg",
    "svn",
    "jj",
    "npm",
    "npx",
    "pnpm",
    "pnpx",
    "yarn",
    "bun",
    "bunx",
    "deno",
    "node",
    "tsx",
    "pip",
    "pip3",
    "pipx",
    "uv",
    "uvx",
  ],
  ...[
    "poetry",
    "conda",
    "python",
    "python3",
    "ruby",
    "perl",
    "php",
    "gem",
    "bundle",
    "rake",
    "cargo",
    "rustup",
    "go",
    "dotnet",
    "mvn",
    "gradle",
    "make",
    "just",
  ],
  ...[
    "docker",
    "podman",
    "docker-compose",
    "kubectl",
    "helm",
    "kustomize",
    "minikube",
    "terraform",
    "tofu",
    "pulumi",
    "ansible",
    "vagrant",
    "nix",
  ],
  ...[
    "aws",
    "gcloud",
    "gsutil",
    "az",
    "flyctl",
    "fly",
    "heroku",
    "vercel",
    "netlify",
    "wrangler",
    "supabase",
    "firebase",
    "doctl",
    "brew",
    "apt",
    "apt-get",
  ],
  ...[
    "dnf",
    "yum",
    "apk",
    "pacman",
    "systemctl",
    "service",
    "buf",
    "bazel",
    "turbo",
    "nx",
    "composer",
    "flutter",
    "swift",
    "mix",
    "stack",
    "cabal",
    "sbt",
  ],
]);

// What can stand in a pattern and mean the same as in a command.
const plainWord = /^[A-Za-z0-9_./@%,+-][A-Za-z0-9_./@%,:+-]*$/;

/**
 * The pattern by which "for this session" remembers a call. It always matches the call itself.
 * Undefined when no pattern of the grammar reaches the call (stages that differ, a dangerous construct, a command that runs another
 * one, a verb command without its verb): the answer then holds for this call only.
 */
export function derivePattern(toolName: string, input: JsonObject): string | undefined {
  if (personTools.has(toolName)) return undefined;
  if (toolName !== "Bash") return parsePattern(toolName) ? toolName : undefined;
  const text = shellTextOf(toolName, input);
  if (text === undefined || text === "unreadable") return undefined;
  const [first, ...others] = readStages(text.command).stages.map(prefixOf);
  if (first === undefined || others.some((other) => other !== first)) return undefined;
  const pattern = `Bash(${first}:*)`;
  return patternMatches(pattern, toolName, input) ? pattern : undefined;
}

function prefixOf(stage: Stage): string | undefined {
  const [command, verb] = stage.words;
  if (!command || !plainWord.test(command.value)) return undefined;
  if (!verbCommands.has(command.value)) return command.value;
  if (!verb?.fixed || verb.value.startsWith("-") || !plainWord.test(verb.value)) return undefined;
  return `${command.value} ${verb.value}`;
}
