import { describe, expect, it } from "vitest";
import { isRefusedName } from "../../../server/profiles/environment-names.ts";

const refused = [
  ...["LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "DYLD_INSERT_LIBRARIES", "GLIBC_TUNABLES", "GCONV_PATH", "OPENSSL_CONF"],
  ...["PATH", "HOME", "SHELL", "IFS", "ENV", "BASH_ENV", "SHELLOPTS", "BASHOPTS", "PS4", "PROMPT_COMMAND", "ZDOTDIR", "XDG_CONFIG_HOME"],
  ...["NODE_OPTIONS", "NODE_PATH", "NODE_EXTRA_CA_CERTS", "NODE_TLS_REJECT_UNAUTHORIZED", "BUN_OPTIONS", "BUN_INSPECT", "SSL_CERT_FILE"],
  ...[
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
    "anthropic_auth_token",
    "CLAUDE_CONFIG_DIR",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDECODE",
    "CARREL_TOKEN",
  ],
  ...[
    "HTTP_PROXY",
    "https_proxy",
    "Http_Proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "FTP_PROXY",
    "npm_config_https_proxy",
    "GLOBAL_AGENT_HTTP_PROXY",
  ],
  ...[
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PAGER",
    "GIT_EDITOR",
    "GIT_ASKPASS",
    "GIT_PROXY_COMMAND",
    "GIT_TEMPLATE_DIR",
  ],
  ...[
    "GIT_CONFIG",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_KEY_0",
    "GIT_CONFIG_VALUE_0",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_SSL_NO_VERIFY",
  ],
  ...[
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONBREAKPOINT",
    "PYTHONWARNINGS",
    "PERL5LIB",
    "PERL5OPT",
    "RUBYOPT",
    "RUBYLIB",
  ],
  ...[
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "npm_config_script_shell",
    "NPM_CONFIG_NODE_OPTIONS",
    "EDITOR",
    "PAGER",
    "LESSOPEN",
    "SSH_ASKPASS",
  ],
  ...["HOSTALIASES", "RES_OPTIONS", "BETA_TRACING_ENDPOINT", "SESSION_INGRESS_URL"],
];

const allowed = [
  ...[
    "A",
    "_",
    "TZ",
    "LANG",
    "LC_ALL",
    "TERM",
    "CI",
    "DEBUG",
    "NODE_ENV",
    "GITHUB_TOKEN",
    "GH_TOKEN",
    "NPM_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "DATABASE_URL",
  ],
  ...[
    "GIT_AUTHOR_NAME",
    "GIT_AUTHOR_EMAIL",
    "GIT_COMMITTER_NAME",
    "GIT_TERMINAL_PROMPT",
    "GITLAB_TOKEN",
    "PYTHONUNBUFFERED",
    "PYTHONDONTWRITEBYTECODE",
  ],
  ...[
    "PYTHON_VERSION",
    "MY_HOME",
    "MYPATH",
    "PATH_TO_DATA",
    "HOMEPAGE",
    "PROXY_USER",
    "ENVIRONMENT",
    "OLD_PAGER",
    "CC",
    "JAVA_HOME",
    "KUBECONFIG",
  ],
  ...[
    "npm_config_registry",
    "NPM_CONFIG_REGISTRY",
    "MAX_THINKING_TOKENS",
    "BASH_DEFAULT_TIMEOUT_MS",
    "API_BASE_URL",
    "WORLD_LD",
    "X_LD_PRELOAD",
  ],
];

describe("an environment variable", () => {
  it.each(refused)("that could change what runs or where the agent connects is refused: %s", (name) => {
    expect(isRefusedName(name)).toBe(true);
  });

  it.each(allowed)("of a program or a person is not: %s", (name) => {
    expect(isRefusedName(name)).toBe(false);
  });
});
