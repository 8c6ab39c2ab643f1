import { create, type DescField, type DescMessage, type JsonValue, type Message } from "@bufbuild/protobuf";
import { FieldMaskSchema } from "@bufbuild/protobuf/wkt";
import type { MessageReader, ReaderOf } from "./reader.ts";
import type { FlatField } from "./routes.ts";

/** The field of a request that REST fills by itself, where the request has one: the body's keys say which fields are meant. */
export function maskField(desc: DescMessage): DescField | undefined {
  return desc.fields.find((field) => field.name === "update_mask" && field.message?.typeName === FieldMaskSchema.typeName);
}

/**
 * Fills requests whose `flat` field stands flat in the body: its fields, and beside them those of the request. Where both have
 * a name it is the request's. JSON tells an absent field from an empty one and protobuf does not, so an `update_mask` is written here.
 */
export function createFlatFiller(desc: DescMessage, flat: FlatField, readerOf: ReaderOf): MessageReader["fill"] {
  const outer = readerOf(desc);
  const inner = readerOf(flat.message);
  const mask = maskField(desc);
  const hidden = [flat.name, mask?.name];
  const isOuter = (key: string): boolean => {
    const field = outer.fields.get(key);
    return field !== undefined && !hidden.includes(field.name);
  };
  return (target, value, path, problems, given) => {
    const entries = Object.entries(value as Record<string, JsonValue>);
    const ofInner = entries.filter(([key]) => !isOuter(key));
    const message = create(flat.message);
    inner.fill(message, Object.fromEntries(ofInner), path, problems);
    outer.fill(target, Object.fromEntries(entries.filter(([key]) => isOuter(key))), path, problems, given);
    const row = target as Message & Record<string, unknown>;
    row[flat.localName] = message;
    if (mask) row[mask.localName] = create(FieldMaskSchema, { paths: ofInner.flatMap(([key]) => inner.fields.get(key)?.name ?? []) });
  };
}
