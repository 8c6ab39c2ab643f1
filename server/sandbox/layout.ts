import { lstat, mkdir, readlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { SandboxSpec } from "./driver.ts";
import { seccompProgram } from "./seccomp.ts";
import type { SeccompArchitecture } from "./syscalls.ts";

/** Who everything in a sandbox runs as, in the sandbox's own numbering. */
const agent = { id: 1000, name: "agent", home: "/home/agent" };

// Of the host's /etc: what libraries and tools read to run at all. Nothing about its users, network or secrets
// (/etc/ssl/private stays out: a control plane in the ssl-cert group could read it, and so could its sandboxes).
const etcOfHost = [
  "ssl/certs",
  "ssl/openssl.cnf",
  "ca-certificates",
  "ca-certificates.conf",
  "pki/tls/certs",
  "pki/ca-trust",
  "alternatives",
  "ld.so.cache",
  "ld.so.conf",
  "ld.so.conf.d",
  "localtime",
  "os-release",
  "debian_version",
  "mime.types",
  "protocols",
  "services",
  "inputrc",
  "magic",
  "perl",
  "python3",
  "terminfo",
];

const etcOfOurs: Readonly<Record<string, string>> = {
  passwd: [
    `${agent.name}:x:${agent.id}:${agent.id}::${agent.home}:/bin/bash\n`,
    "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n",
  ].join(""),
  group: `${agent.name}:x:${agent.id}:\nnogroup:x:65534:\n`,
  hosts: "127.0.0.1 localhost carrel\n::1 localhost\n",
  "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
};

/** Files every sandbox shares, in a directory that a mount can make visible to it, and the binary system call filter. */
export type SystemFiles = { directory: string; filter: string; hostDirectories: readonly string[] };

/** Descriptors that bubblewrap finds open; see launch.sh. */
export const descriptors = { status: 3, arguments: 4, filter: 5 } as const;

export async function writeSystemFiles(stateDirectory: string, architecture: SeccompArchitecture): Promise<SystemFiles> {
  const directory = join(stateDirectory, "system");
  await mkdir(directory, { recursive: true, mode: 0o755 });
  for (const [name, content] of Object.entries(etcOfOurs)) await writeFile(join(directory, name), content, { mode: 0o644 });
  const filter = join(stateDirectory, "seccomp.bpf");
  await writeFile(filter, seccompProgram(architecture), { mode: 0o600 });
  return { directory, filter, hostDirectories: await hostDirectories() };
}

// Today's systems have /bin and the rest as links into /usr, older ones as directories.
async function hostDirectories(): Promise<string[]> {
  const all: string[] = ["--ro-bind", "/usr", "/usr"];
  for (const path of ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"]) {
    const found = await lstat(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return null;
      throw error;
    });
    if (found?.isSymbolicLink()) all.push("--symlink", await readlink(path), path);
    else if (found) all.push("--ro-bind", path, path);
  }
  return all;
}

/**
 * The options of bubblewrap, all but the command. `system` is the directory of our files and `sources` what each mount's
 * source is called where bubblewrap runs. Options apply in order: the root is made read-only when all else is in place.
 */
export function bubblewrapOptions(
  spec: SandboxSpec,
  files: SystemFiles,
  system: string,
  sources: ReadonlyMap<SandboxSpec["readOnly"][number], string>,
): string[] {
  const memoryFiles = String(Math.floor(spec.limits.memoryBytes / 2));
  return [
    ...["--unshare-user", "--unshare-all", "--disable-userns", "--uid", String(agent.id), "--gid", String(agent.id)],
    ...["--cap-drop", "ALL", "--new-session", "--die-with-parent", "--hostname", "carrel"],
    ...["--seccomp", String(descriptors.filter)],
    ...["--json-status-fd", String(descriptors.status)],
    "--clearenv",
    ...Object.entries(spec.environment).flatMap(([name, value]) => ["--setenv", name, value]),
    ...files.hostDirectories,
    ...["--dir", "/etc", "--dir", "/etc/ssl"],
    ...etcOfHost.flatMap((name) => ["--ro-bind-try", `/etc/${name}`, `/etc/${name}`]),
    ...Object.keys(etcOfOurs).flatMap((name) => ["--ro-bind", join(system, name), `/etc/${name}`]),
    ...["--proc", "/proc", "--dev", "/dev"],
    // Without a size, files in memory could be half of the machine's.
    ...["--perms", "1777", "--size", memoryFiles, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"],
    ...["--perms", "1777", "--size", memoryFiles, "--tmpfs", "/tmp"],
    ...["--dir", "/run", "--dir", "/var"],
    ...mounts(spec, sources),
    ...["--remount-ro", "/", "--chdir", spec.cwd],
  ];
}

// Parents before what lies in them, so that no mount hides another.
function mounts(spec: SandboxSpec, sources: ReadonlyMap<SandboxSpec["readOnly"][number], string>): string[] {
  const all = [
    ...spec.readOnly.map((mount) => ({ mount, option: "--ro-bind" })),
    ...spec.writable.map((mount) => ({ mount, option: "--bind" })),
  ];
  const depth = (path: string) => path.split("/").filter(Boolean).length;
  return all
    .sort((one, other) => depth(one.mount.target) - depth(other.mount.target))
    .flatMap(({ mount, option }) => [option, sources.get(mount) ?? mount.source, mount.target]);
}
