/**
 * Environment variables that a profile may not set, because they could change what runs or where the agent connects: they steer
 * the loader, a shell, an interpreter or a helper behind a command that looks harmless, or they move the agent's own connections,
 * trust and configuration away from what the trusted side decided. Settings of the tools a person asks for (CC, KUBECONFIG,
 * PIP_INDEX_URL) are not here: what those do is bounded by the sandbox and by the hosts the profile allows.
 */
const refusedNames: ReadonlySet<string> = new Set([
  // where programs, libraries and start-up files come from
  ...[
    "PATH",
    "HOME",
    "SHELL",
    "IFS",
    "ENV",
    "BASH_ENV",
    "BASHOPTS",
    "BASH_LOADABLES_PATH",
    "SHELLOPTS",
    "PS4",
    "PROMPT_COMMAND",
    "ZDOTDIR",
  ],
  ...["GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH", "OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES"],
  // helpers that other programs start
  ...["EDITOR", "VISUAL", "PAGER", "MANPAGER", "BROWSER", "LESSOPEN", "LESSCLOSE", "SSH_ASKPASS", "SUDO_ASKPASS"],
  // interpreters: code or modules that load before the program
  ...["NODE_OPTIONS", "NODE_PATH", "NODE_REPL_EXTERNAL_MODULE", "NODE_CHANNEL_FD", "RUBYOPT", "RUBYLIB", "PERLLIB"],
  ...["JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"],
  // name resolution, trust and other roads of the agent's own connections
  ...["HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS", "RESOLV_HOST_CONF", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"],
  ...["NODE_EXTRA_CA_CERTS", "NODE_TLS_REJECT_UNAUTHORIZED", "NODE_USE_ENV_PROXY", "NODE_USE_SYSTEM_CA"],
  ...["BETA_TRACING_ENDPOINT", "ENABLE_ENHANCED_TELEMETRY_BETA", "SESSION_INGRESS_URL"],
]);

/** The loader, the runtime that `claude` is built on, configuration directories, and what the agent and Carrel read for themselves. */
const refusedStarts = /^(?:LD_|DYLD_|BUN_|XDG_|PERL5|ANTHROPIC_|CLAUDE|CARREL_|CCR_|SELF_HOSTED_RUNNER_|GLOBAL_AGENT_)/i;

/** Programs read proxies in either case. */
const proxies = /(?:^|_)proxy$/i;

/** Git runs what many of its variables name, or reads its configuration from them; these only say who commits and how it talks. */
const git =
  /^GIT_(?!AUTHOR_(?:NAME|EMAIL|DATE)$|COMMITTER_(?:NAME|EMAIL|DATE)$|TERMINAL_PROMPT$|MERGE_AUTOEDIT$|LFS_SKIP_SMUDGE$|OPTIONAL_LOCKS$)/;

/** The interpreter's own names have no underscore after PYTHON; these change only how it prints and hashes. */
const python = /^PYTHON(?!UNBUFFERED$|DONTWRITEBYTECODE$|IOENCODING$|UTF8$|HASHSEED$)[A-Z]/;

/** npm takes every option from here, the shell and Node's own options among them. The registry is only an address. */
const npm = /^npm_config_(?!registry$)/i;

/** Whether a profile may not set this variable. */
export function isRefusedName(name: string): boolean {
  return refusedNames.has(name) || [refusedStarts, proxies, git, python, npm].some((pattern) => pattern.test(name));
}

/** What people are told of one. */
export const refusedNameMessage = "this name is not allowed: it could change what runs or where the agent connects";
