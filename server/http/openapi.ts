import { type DescMethod, type DescService, getOption, hasOption } from "@bufbuild/protobuf";
import { ErrorReasonSchema } from "../../gen/carrel/v1/error_reason_pb.ts";
import { authorization, http_status, success_status } from "../../gen/carrel/v1/options_pb.ts";
import { createSchemaMaker, type Schema, type SchemaMaker } from "./openapi-schemas.ts";
import { maskField } from "./rest/flat.ts";
import { type Binding, bindingsOf } from "./rest/routes.ts";

/** The REST surface of some services as an OpenAPI 3.1 document. Every method but those without an http option is in it. */
export function createOpenApi(services: readonly DescService[], serverUrl: string | undefined): Schema {
  const schemas = createSchemaMaker();
  const paths: Record<string, Record<string, Schema>> = {};
  for (const method of services.flatMap((service) => service.methods)) {
    bindingsOf(method).forEach((binding, index) => {
      const path = (paths[binding.template] ??= {});
      path[binding.verb.toLowerCase()] = operation(method, binding, index, schemas);
    });
  }
  return {
    openapi: "3.1.0",
    info: { title: "Carrel", version: "v1", description: "Derived from the protobuf contract, which is the authority." },
    ...(serverUrl ? { servers: [{ url: serverUrl }] } : {}),
    security: [{ bearer: [] }],
    paths,
    components: {
      securitySchemes: { bearer: { type: "http", scheme: "bearer", bearerFormat: "JWT" } },
      responses: {
        Error: { description: "A refusal. Switch on `error`, never on `message`.", content: json({ $ref: "#/components/schemas/Error" }) },
      },
      schemas: { ...schemas.components, Error: errorSchema() },
    },
  };
}

function operation(method: DescMethod, binding: Binding, index: number, schemas: SchemaMaker): Schema {
  const status = getOption(method, success_status) || 200;
  const body = requestBody(method, binding, schemas);
  const hasBody = binding.hasBody && Object.keys(body.properties as object).length > 0;
  return {
    operationId: `${method.parent.name}_${method.name}${index === 0 ? "" : `_${index}`}`,
    tags: [method.parent.name],
    summary: method.name.replace(/(?<=[a-z])(?=[A-Z])/g, " "),
    ...(hasOption(method, authorization) ? {} : { security: [] }),
    parameters: parameters(method, binding, schemas),
    ...(hasBody ? { requestBody: { required: false, content: json(body) } } : {}),
    responses: {
      [status]: { description: method.output.name, content: json(schemas.answer(method.output)) },
      default: { $ref: "#/components/responses/Error" },
    },
  };
}

function requestBody(method: DescMethod, { flat, variables }: Binding, schemas: SchemaMaker): Schema {
  if (!flat) return schemas.request(method.input, variables);
  const beside = schemas.request(method.input, [...variables, flat.name, maskField(method.input)?.name ?? ""]);
  const body = schemas.request(flat.message, []);
  return { ...body, properties: { ...(body.properties as Schema), ...(beside.properties as Schema) } };
}

function parameters(method: DescMethod, binding: Binding, schemas: SchemaMaker): Schema[] {
  return method.input.fields.flatMap((field): Schema[] => {
    const inPath = binding.variables.includes(field.name);
    if (!inPath && ((binding.hasBody && !binding.flat) || field.message)) return [];
    return [{ name: field.name, in: inPath ? "path" : "query", required: inPath, schema: schemas.field(field, false) }];
  });
}

function errorSchema(): Schema {
  const reasons = ErrorReasonSchema.values.filter((value) => value.number !== 0);
  return {
    type: "object",
    required: ["error", "message", "details"],
    properties: {
      error: {
        type: "string",
        examples: reasons.map((value) => value.name.slice("ERROR_REASON_".length).toLowerCase()),
        description: reasons
          .map((value) => `${value.name.slice("ERROR_REASON_".length).toLowerCase()}: ${getOption(value, http_status)}`)
          .join(", "),
      },
      message: { type: "string" },
      details: { type: "object", additionalProperties: true },
    },
  };
}

function json(schema: Schema): Schema {
  return { "application/json": { schema } };
}
