// buf/validate/validate.proto is in no npm package as text; @bufbuild/protovalidate carries its descriptor. This prints
// the descriptor back as proto source (shape only: the rules' own custom options are dropped, nothing of ours needs them).
import { pathToFileURL } from "node:url";
import type { DescFile } from "@bufbuild/protobuf";
import {
  type DescriptorProto,
  type EnumDescriptorProto,
  type FieldDescriptorProto,
  type FileDescriptorProto,
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
} from "@bufbuild/protobuf/wkt";

const scalarNames = new Map<Type, string>([
  [Type.DOUBLE, "double"],
  [Type.FLOAT, "float"],
  [Type.INT64, "int64"],
  [Type.UINT64, "uint64"],
  [Type.INT32, "int32"],
  [Type.FIXED64, "fixed64"],
  [Type.FIXED32, "fixed32"],
  [Type.BOOL, "bool"],
  [Type.STRING, "string"],
  [Type.BYTES, "bytes"],
  [Type.UINT32, "uint32"],
  [Type.SFIXED32, "sfixed32"],
  [Type.SFIXED64, "sfixed64"],
  [Type.SINT32, "sint32"],
  [Type.SINT64, "sint64"],
]);

/** The source text of buf/validate/validate.proto, read from the installed protovalidate under `nodeModules`. */
export async function validateProtoSource(nodeModules: string): Promise<string> {
  const module = `${nodeModules}/@bufbuild/protovalidate/dist/esm/gen/buf/validate/validate_pb.js`;
  const generated = (await import(pathToFileURL(module).href)) as { file_buf_validate_validate: DescFile };
  return printFile(generated.file_buf_validate_validate.proto);
}

function printFile(file: FileDescriptorProto): string {
  const extensions = Map.groupBy(file.extension, (field) => field.extendee);
  return [
    'syntax = "proto2";',
    `package ${file.package};`,
    ...file.dependency.map((dependency) => `import "${dependency}";`),
    ...[...extensions].flatMap(([extendee, fields]) => [`extend ${extendee} {`, ...fields.map((field) => printField(field, false)), "}"]),
    ...file.enumType.flatMap(printEnum),
    ...file.messageType.flatMap(printMessage),
    "",
  ].join("\n");
}

function printMessage(message: DescriptorProto): string[] {
  const inOneof = (field: FieldDescriptorProto) => Object.hasOwn(field, "oneofIndex") && !field.proto3Optional;
  const oneofs = Map.groupBy(message.field.filter(inOneof), (field) => field.oneofIndex);
  return [
    `message ${message.name} {`,
    ...message.enumType.flatMap(printEnum),
    ...message.nestedType.flatMap(printMessage),
    ...message.field.filter((field) => !inOneof(field)).map((field) => printField(field, false)),
    ...[...oneofs].flatMap(([index, fields]) => [
      `oneof ${message.oneofDecl[index]?.name} {`,
      ...fields.map((field) => printField(field, true)),
      "}",
    ]),
    ...message.extensionRange.map((range) => `extensions ${range.start} to ${range.end > 536870911 ? "max" : range.end - 1};`),
    "}",
  ];
}

function printEnum(type: EnumDescriptorProto): string[] {
  const alias = type.options?.allowAlias ? ["option allow_alias = true;"] : [];
  return [`enum ${type.name} {`, ...alias, ...type.value.map((value) => `${value.name} = ${value.number};`), "}"];
}

function printField(field: FieldDescriptorProto, inOneof: boolean): string {
  const label = inOneof ? "" : field.label === Label.REPEATED ? "repeated " : "optional ";
  return `${label}${scalarNames.get(field.type) ?? field.typeName} ${field.name} = ${field.number};`;
}
