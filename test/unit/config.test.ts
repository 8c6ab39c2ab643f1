import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Config, ConfigError, readConfig, settings } from "../../server/config.ts";
import { settingsTable } from "../../setup/readme-table.ts";

let directory: string;
let file: string;

beforeAll(() => {
  directory = mkdtempSync(path.join(tmpdir(), "carrel-config-"));
  file = path.join(directory, "there.pem");
  writeFileSync(file, "the content");
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** The agent's program is named, so that a test does not depend on the platform's package of it. */
function read(environment: Record<string, string> = {}): Config {
  return readConfig({ CARREL_CLAUDE_PATH: process.execPath, ...environment });
}

function problemsOf(environment: Record<string, string>): readonly string[] {
  try {
    read(environment);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
}

describe("an empty environment", () => {
  test("serves this machine only, from ./.carrel, asking the provider", () => {
    const config = read();
    expect(config).toMatchObject({
      host: "127.0.0.1",
      port: 8080,
      publicUrl: undefined,
      tls: undefined,
      allowedOrigins: [],
      dataDirectory: path.resolve(".carrel"),
      databaseUrl: undefined,
      rootKeyFile: path.resolve(".carrel/root.key"),
      oidcIssuers: [],
      allowedEmailDomains: [],
      sandbox: "auto",
      demo: false,
      logLevel: "info",
    });
    expect(config.anthropicBaseUrl.href).toBe("https://api.anthropic.com/");
    expect(Object.isFrozen(config)).toBe(true);
  });

  test("takes the agent's program from its package", () => {
    expect(readConfig({}).claudePath).toMatch(/claude-agent-sdk-linux-\w+\/claude$/);
  });

  test("gives an empty variable its default", () => {
    expect(read({ CARREL_PORT: "", CARREL_OIDC_ISSUERS: "" })).toMatchObject({ port: 8080, oidcIssuers: [] });
  });
});

describe("values", () => {
  test("are read in full", () => {
    const config = read({
      CARREL_PORT: "0",
      CARREL_PUBLIC_URL: "https://carrel.example.com",
      CARREL_TLS_KEY_FILE: file,
      CARREL_TLS_CERT_FILE: file,
      CARREL_ALLOWED_ORIGINS: "https://a.example.com, https://b.example.com,",
      CARREL_DATA_DIR: directory,
      CARREL_OIDC_ISSUERS: "https://login.example.com|carrel,https://other.example.com|them",
      CARREL_ALLOWED_EMAIL_DOMAINS: "example.com,example.org",
      CARREL_SANDBOX_CPUS: "0.5",
      CARREL_DEMO: "true",
      CARREL_LIMIT_CONCURRENT_SESSIONS: "3",
    });
    expect(config).toMatchObject({
      port: 0,
      tls: { key: "the content", cert: "the content" },
      allowedOrigins: ["https://a.example.com", "https://b.example.com"],
      dataDirectory: directory,
      rootKeyFile: path.join(directory, "root.key"),
      oidcIssuers: [
        { issuer: "https://login.example.com", audience: "carrel" },
        { issuer: "https://other.example.com", audience: "them" },
      ],
      allowedEmailDomains: ["example.com", "example.org"],
      demo: true,
    });
    expect(config.publicUrl?.origin).toBe("https://carrel.example.com");
    expect(config.sandboxLimits.cpus).toBe(0.5);
    expect(config.limits.concurrentSessions).toBe(3);
  });

  test("two data directories never share a runtime directory, and its name leaves room for a socket's", () => {
    const one = read({ CARREL_DATA_DIR: "/srv/one" }).runtimeDirectory;
    expect(one).not.toBe(read({ CARREL_DATA_DIR: "/srv/two" }).runtimeDirectory);
    expect(one.length).toBeLessThan(50);
  });
});

describe("a bad value", () => {
  test.each([
    ["CARREL_PORT", "http", "must be a whole number from 0 to 65535"],
    ["CARREL_PORT", "65536", "must be a whole number from 0 to 65535"],
    ["CARREL_PORT", "-1", "must be a whole number from 0 to 65535"],
    ["CARREL_PORT", "80.5", "must be a whole number from 0 to 65535"],
    ["CARREL_PORT", " 80", "must be a whole number from 0 to 65535"],
    ["CARREL_PUBLIC_URL", "carrel.example.com", "must be an http or https URL"],
    ["CARREL_PUBLIC_URL", "ftp://carrel.example.com", "must be an http or https URL"],
    ["CARREL_ANTHROPIC_BASE_URL", "unix:/run/model", "must be an http or https URL"],
    ["CARREL_PRICE_TABLE", "/nowhere/prices.json", "names a file that is not there: /nowhere/prices.json"],
    ["CARREL_DATABASE_POOL", "1", "must be a whole number from 2 to 500"],
    ["CARREL_OIDC_ISSUERS", "https://login.example.com", "must list issuer|audience, not https://login.example.com"],
    ["CARREL_OIDC_ISSUERS", "https://login.example.com|a|b", "must list issuer|audience, not https://login.example.com|a|b"],
    ["CARREL_SANDBOX", "chroot", "must be one of auto, bubblewrap, none"],
    ["CARREL_SANDBOX_MEMORY_BYTES", "2GiB", "must be a whole number from 67108864 to 70368744177664"],
    ["CARREL_SANDBOX_CPUS", "0", "must be a number from 0.1 to 1024"],
    ["CARREL_SANDBOX_CPUS", "1e3", "must be a number from 0.1 to 1024"],
    ["CARREL_DEMO", "yes", "must be true or false"],
    ["CARREL_LOG_LEVEL", "loud", "must be one of debug, info, warn, error"],
    ["CARREL_STARTUP_TIMEOUT_MS", "60s", "must be a whole number from 1000 to 3600000"],
    ["CARREL_LIMIT_MESSAGE_BYTES", "1", "must be a whole number from 16384 to 67108864"],
  ])("%s=%s is refused by name", (name, value, problem) => {
    expect(problemsOf({ [name]: value })).toEqual([`${name} ${problem}`]);
  });

  test("never comes alone when there are more: all are told at once", () => {
    expect(problemsOf({ CARREL_PORT: "x", CARREL_DEMO: "x", CARREL_SANDBOX: "x" }).map((problem) => problem.split(" ")[0])).toEqual([
      "CARREL_PORT",
      "CARREL_SANDBOX",
      "CARREL_DEMO",
    ]);
  });

  test("can be one half of a pair", () => {
    expect(problemsOf({ CARREL_TLS_KEY_FILE: file })).toEqual(["CARREL_TLS_KEY_FILE and CARREL_TLS_CERT_FILE must be set together"]);
  });

  test("can be an agent that is not there", () => {
    expect(problemsOf({ CARREL_CLAUDE_PATH: "/nowhere/claude" })).toEqual([
      "CARREL_CLAUDE_PATH: there is no claude program at /nowhere/claude",
    ]);
  });
});

describe("settings", () => {
  test("have names that are used once, and defaults that they accept", () => {
    const all = Object.values(settings);
    expect(new Set(all.map(({ name }) => name)).size).toBe(all.length);
    for (const setting of all) expect(() => setting.parse(setting.default), setting.name).not.toThrow();
  });

  test("stand in README as they are here; `npm run generate` writes them", () => {
    expect(readFileSync(path.resolve(import.meta.dirname, "../../README.md"), "utf8")).toContain(`\n${settingsTable()}\n`);
  });
});
