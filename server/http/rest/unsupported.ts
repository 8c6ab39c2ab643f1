import type { JsonValue } from "@bufbuild/protobuf";

/** Whether a value says nothing: the field is then accepted and ignored. */
type SaysNothing = (value: JsonValue) => boolean;

function isEmpty(value: JsonValue): boolean {
  if (value === null || value === "" || value === 0 || value === false) return true;
  if (Array.isArray(value)) return value.length === 0;
  return typeof value === "object" && Object.keys(value).length === 0;
}

/** Fields of the hosted product that this server does not have, by request message and REST name. */
export const unsupportedFields: Readonly<Record<string, Readonly<Record<string, SaysNothing>>>> = {
  "carrel.v1.CreateSessionRequest": {
    provider: (value) => isEmpty(value) || value === "anthropic",
    plugins: isEmpty,
    task_budget_tokens: isEmpty,
    lc_credentials: isEmpty,
    region: isEmpty,
  },
  "carrel.v1.Profile": {
    provider: (value) => isEmpty(value) || value === "anthropic",
    plugins: isEmpty,
    task_budget_tokens: isEmpty,
  },
};
