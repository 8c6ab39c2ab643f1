import { createRegistry, type DescFile, type DescService, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code, type ServiceImpl } from "@connectrpc/connect";
import type { ServerReflection, ServerReflectionRequest } from "../../gen/grpc/reflection/v1/reflection_pb.ts";
import type {
  ServerReflection as ServerReflectionAlpha,
  ServerReflectionRequest as ServerReflectionRequestAlpha,
} from "../../gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { filesOf } from "./descriptors.ts";

type Question = (ServerReflectionRequest | ServerReflectionRequestAlpha)["messageRequest"];
type Answer =
  | { case: "listServicesResponse"; value: { service: { name: string }[] } }
  | { case: "fileDescriptorResponse"; value: { fileDescriptorProto: Uint8Array[] } }
  | { case: "allExtensionNumbersResponse"; value: { baseTypeName: string; extensionNumber: number[] } }
  | { case: "errorResponse"; value: { errorCode: number; errorMessage: string } };

/** Server reflection over the descriptors of `services`, in both versions of the protocol: they differ only in name. */
export function createReflectionServices(services: readonly DescService[]): {
  v1: ServiceImpl<typeof ServerReflection>;
  v1alpha: ServiceImpl<typeof ServerReflectionAlpha>;
} {
  const answer = createAnswers(services);
  return {
    v1: {
      async *serverReflectionInfo(requests) {
        for await (const request of requests)
          yield { validHost: request.host, originalRequest: request, messageResponse: answer(request.messageRequest) };
      },
    },
    v1alpha: {
      async *serverReflectionInfo(requests) {
        for await (const request of requests)
          yield { validHost: request.host, originalRequest: request, messageResponse: answer(request.messageRequest) };
      },
    },
  };
}

function createAnswers(services: readonly DescService[]): (question: Question) => Answer {
  const files = filesOf(services);
  const registry = createRegistry(...files);
  const extensions = [...registry].filter((desc) => desc.kind === "extension");
  return (question) => {
    switch (question.case) {
      case "listServices":
        return { case: "listServicesResponse", value: { service: services.map((service) => ({ name: service.typeName })) } };
      case "fileByFilename":
        return fileAnswer(files.find((file) => file.proto.name === question.value));
      case "fileContainingSymbol":
        return fileAnswer(files.find((file) => symbolsOf(file).has(question.value)));
      case "fileContainingExtension": {
        const { containingType, extensionNumber } = question.value;
        return fileAnswer(extensions.find((one) => one.extendee.typeName === containingType && one.number === extensionNumber)?.file);
      }
      case "allExtensionNumbersOfType": {
        if (!registry.getMessage(question.value)) return notKnown();
        const numbers = extensions.filter((one) => one.extendee.typeName === question.value).map((one) => one.number);
        return { case: "allExtensionNumbersResponse", value: { baseTypeName: question.value, extensionNumber: numbers } };
      }
      default:
        return { case: "errorResponse", value: { errorCode: Code.InvalidArgument, errorMessage: "the request asks nothing" } };
    }
  };
}

// With everything it imports, so that a client needs one round trip.
function fileAnswer(file: DescFile | undefined): Answer {
  if (!file) return notKnown();
  const all = new Set<DescFile>();
  const visit = (one: DescFile): void => {
    if (all.has(one)) return;
    all.add(one);
    one.dependencies.forEach(visit);
  };
  visit(file);
  return {
    case: "fileDescriptorResponse",
    value: { fileDescriptorProto: [...all].map((one) => toBinary(FileDescriptorProtoSchema, one.proto)) },
  };
}

function notKnown(): Answer {
  return { case: "errorResponse", value: { errorCode: Code.NotFound, errorMessage: "not known" } };
}

function symbolsOf(file: DescFile): Set<string> {
  const symbols = new Set<string>();
  const addMessage = (message: DescFile["messages"][number]): void => {
    symbols.add(message.typeName);
    for (const member of [...message.fields, ...message.oneofs]) symbols.add(`${message.typeName}.${member.name}`);
    for (const one of [...message.nestedEnums, ...message.nestedExtensions]) symbols.add(one.typeName);
    message.nestedMessages.forEach(addMessage);
  };
  file.messages.forEach(addMessage);
  for (const one of [...file.enums, ...file.extensions]) symbols.add(one.typeName);
  for (const service of file.services) {
    symbols.add(service.typeName);
    for (const method of service.methods) symbols.add(`${service.typeName}.${method.name}`);
  }
  return symbols;
}
