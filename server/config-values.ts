// How the text of a setting becomes its value. Each throws what is wrong with it, to be read after the setting's name.
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { badExceptions } from "./broker/outbound.ts";

export type OidcIssuerSetting = { issuer: string; audience: string };

export function text(value: string): string {
  return value;
}

export function path(value: string): string {
  return resolve(value);
}

export function file(value: string): string {
  if (!existsSync(value)) throw new Error(`names a file that is not there: ${value}`);
  return resolve(value);
}

export function list(value: string): string[] {
  return value
    .split(",")
    .map((item) => item.trim())
    .filter(Boolean);
}

export function exceptions(value: string): string[] {
  const bad = badExceptions(list(value));
  if (bad.length > 0) throw new Error(`must list CIDRs, addresses or host:port, not ${bad.join(", ")}`);
  return list(value);
}

export function issuers(value: string): OidcIssuerSetting[] {
  return list(value).map((item) => {
    const [issuer, audience, ...more] = item.split("|");
    if (!issuer || !audience || more.length > 0) throw new Error(`must list issuer|audience, not ${item}`);
    return { issuer, audience };
  });
}

export function url(value: string): URL {
  if (!URL.canParse(value) || !/^https?:$/.test(new URL(value).protocol)) throw new Error("must be an http or https URL");
  return new URL(value);
}

export function optional<T>(parse: (value: string) => T): (value: string) => T | undefined {
  return (value) => (value === "" ? undefined : parse(value));
}

export function integer(least: number, most: number): (value: string) => number {
  return (value) => {
    const parsed = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
    if (!(parsed >= least && parsed <= most)) throw new Error(`must be a whole number from ${least} to ${most}`);
    return parsed;
  };
}

export function number(least: number, most: number): (value: string) => number {
  return (value) => {
    const parsed = /^\d{1,9}(\.\d{1,6})?$/.test(value) ? Number(value) : Number.NaN;
    if (!(parsed >= least && parsed <= most)) throw new Error(`must be a number from ${least} to ${most}`);
    return parsed;
  };
}

export function boolean(value: string): boolean {
  if (value !== "true" && value !== "false") throw new Error("must be true or false");
  return value === "true";
}

export function oneOf<T extends string>(...words: T[]): (value: string) => T {
  return (value) => {
    if (!words.includes(value as T)) throw new Error(`must be one of ${words.join(", ")}`);
    return value as T;
  };
}
