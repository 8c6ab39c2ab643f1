import { type DescEnum, type DescEnumValue, getOption } from "@bufbuild/protobuf";
import { former_words, word } from "../gen/carrel/v1/options_pb.ts";

/** The product's word of an enum value (`running`, `acceptEdits`); "" for an unspecified or unknown one. */
export function wordOf(schema: DescEnum, number: number): string {
  const value = schema.value[number];
  return value ? getOption(value, word) : "";
}

/** The value of a word, or of an older word that still counts; undefined for anything else. */
export function valueOfWord(schema: DescEnum, text: string): number | undefined {
  const says = (value: DescEnumValue) => getOption(value, word) === text || getOption(value, former_words).includes(text);
  return text === "" ? undefined : schema.values.find(says)?.number;
}

/** Every word of an enum, in the order of the contract. */
export function wordsOf(schema: DescEnum): string[] {
  return schema.values.map((value) => getOption(value, word)).filter((text) => text !== "");
}
