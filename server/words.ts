import { type DescEnum, getOption } from "@bufbuild/protobuf";
import { word } from "../gen/carrel/v1/options_pb.ts";

/** The product's word for an enum value, from the contract's `word` option; empty for a value without one. */
export function wordOf(schema: DescEnum, value: number): string {
  const desc = schema.value[value];
  return desc ? getOption(desc, word) : "";
}
