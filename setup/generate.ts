// `npm run generate`: takes other people's schemas from npm packages into third_party/ and generates gen/ from proto/.
// Works offline; both folders may be deleted at any time.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { buf, root } from "./buf.ts";
import { validateProtoSource } from "./validate-proto.ts";

const nodeModules = join(root, "node_modules");
const thirdParty = join(root, "third_party");
const google = join(nodeModules, "google-gax/build/protos");
const grpc = join(nodeModules, "@grpc/reflection/build/proto");

const copied: Record<string, string> = {
  "google/api/annotations.proto": google,
  "google/api/http.proto": google,
  "google/rpc/error_details.proto": google,
  "google/rpc/status.proto": google,
  "grpc/reflection/v1/reflection.proto": grpc,
  "grpc/reflection/v1alpha/reflection.proto": grpc,
};

rmSync(thirdParty, { recursive: true, force: true });
for (const [path, base] of Object.entries(copied)) {
  mkdirSync(dirname(join(thirdParty, path)), { recursive: true });
  cpSync(join(base, path), join(thirdParty, path));
}
mkdirSync(join(thirdParty, "grpc/health/v1"), { recursive: true });
cpSync(join(nodeModules, "grpc-health-check/proto/health/v1/health.proto"), join(thirdParty, "grpc/health/v1/health.proto"));
mkdirSync(join(thirdParty, "buf/validate"), { recursive: true });
writeFileSync(join(thirdParty, "buf/validate/validate.proto"), await validateProtoSource(nodeModules));

execFileSync(buf, ["format", "-w", "proto"], { cwd: root, stdio: "inherit" });
execFileSync(buf, ["generate"], {
  cwd: root,
  stdio: "inherit",
  env: { ...process.env, PATH: `${dirname(process.execPath)}:${join(nodeModules, ".bin")}:${process.env.PATH}` },
});
