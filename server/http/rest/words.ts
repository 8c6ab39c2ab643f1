import { type DescEnum, getOption } from "@bufbuild/protobuf";
import { former_words, word } from "../../../gen/carrel/v1/options_pb.ts";

/** The product's vocabulary of one enum. */
export type EnumWords = {
  /** The word of a number; null for the unspecified value, the proto name for a value without a word. */
  wordOf(number: number): string | null;
  /** The number of a word, a former word or a proto name; undefined for anything else. */
  numberOf(text: string): number | undefined;
  /** The current words, in the order of the contract. */
  words: readonly string[];
};

/** Reads the vocabulary out of the enum's options. */
export function enumWords(desc: DescEnum): EnumWords {
  const byNumber = new Map<number, string | null>();
  const byText = new Map<string, number>();
  const words: string[] = [];
  for (const value of desc.values) {
    const own = getOption(value, word);
    if (own) words.push(own);
    if (!byNumber.has(value.number)) byNumber.set(value.number, own || (value.number === 0 ? null : value.name));
    for (const text of [own, value.name, ...getOption(value, former_words)]) {
      if (text && !byText.has(text)) byText.set(text, value.number);
    }
  }
  return {
    wordOf: (number) => byNumber.get(number) ?? null,
    numberOf: (text) => byText.get(text),
    words,
  };
}
