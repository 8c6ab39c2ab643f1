import { create } from "@bufbuild/protobuf";
import { FieldPathElementSchema, ViolationsSchema } from "../../../gen/buf/validate/validate_pb.ts";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../../errors.ts";

/** Everything found wrong in one request, so that a caller learns of it at once. */
export type Problems = {
  unknown: string[];
  unsupported: string[];
  invalid: { field: string; message: string }[];
};

/** Nothing wrong yet. */
export function noProblems(): Problems {
  return { unknown: [], unsupported: [], invalid: [] };
}

/** Throws one refusal when there are any: misspelt fields first, because they change what the rest means. */
export function refuseProblems(problems: Problems): void {
  const { unknown, unsupported, invalid } = problems;
  if (unknown.length > 0) {
    const fields = listed(unknown);
    throw refusal(ErrorReason.UNKNOWN_FIELD, `unknown ${unknown.length > 1 ? "fields" : "field"} ${fields}`, { fields });
  }
  if (unsupported.length > 0) {
    const fields = listed(unsupported);
    throw refusal(ErrorReason.UNSUPPORTED_FIELD, `not supported by this server: ${fields}`, { fields });
  }
  if (invalid.length > 0) throw invalidFields(invalid);
}

function invalidFields(invalid: Problems["invalid"]): Error {
  const text = invalid
    .slice(0, 10)
    .map((one) => `${one.field}: ${one.message}`)
    .join("; ");
  return refusal(
    ErrorReason.INVALID_ARGUMENT,
    text,
    {},
    {
      desc: ViolationsSchema,
      value: {
        violations: invalid.slice(0, 100).map((one) => ({
          field: { elements: [create(FieldPathElementSchema, { fieldName: one.field })] },
          message: one.message,
        })),
      },
    },
  );
}

// Names come from the caller, so their number and length in the answer are bounded.
function listed(names: string[]): string {
  return names
    .slice(0, 20)
    .map((name) => name.slice(0, 100))
    .join(", ");
}
