import { type DescFile, type DescMethod, type DescService, getOption, hasOption } from "@bufbuild/protobuf";
import { Action, type Authorization, authorization, Resource } from "../../gen/carrel/v1/options_pb.ts";

/** What a method asks of its caller. Throws for a method that does not say. */
export function authorizationOf(method: DescMethod): Authorization {
  const option = hasOption(method, authorization) ? getOption(method, authorization) : undefined;
  if (!option || option.resource === Resource.UNSPECIFIED || option.action === Action.UNSPECIFIED) {
    throw new Error(
      `${method.parent.typeName}/${method.name} does not say who may call it: set (carrel.v1.authorization) with a resource and an action`,
    );
  }
  return option;
}

/** Throws when any method lacks its authorization option, naming every such method. Run at start and by `npm run check`. */
export function assertAuthorized(services: readonly DescService[]): void {
  const problems: string[] = [];
  for (const method of services.flatMap((service) => service.methods)) {
    try {
      authorizationOf(method);
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error));
    }
  }
  if (problems.length > 0) throw new Error(problems.join("\n"));
}

/** The files of some services with everything they import, each once, imports first. */
export function filesOf(services: readonly DescService[]): DescFile[] {
  const files = new Map<string, DescFile>();
  const visit = (file: DescFile): void => {
    if (files.has(file.name)) return;
    file.dependencies.forEach(visit);
    files.set(file.name, file);
  };
  for (const service of services) visit(service.file);
  return [...files.values()];
}
